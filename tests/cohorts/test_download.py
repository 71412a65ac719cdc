"""The download: real transfers by the real s5cmd, from a bucket on this machine, with everything that goes wrong."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import idc_index_data
import pandas as pd
import psutil
import pytest
import SimpleITK as sitk
from bucket import PATIENTS, SLICES, Bucket, Server, make_index

from vaelib import InputError
from vaelib.cohorts import download, transfer
from vaelib.cohorts.layout import find_cases
from vaelib.volumes import read_ct, read_mask

REAL = idc_index_data.IDC_INDEX_PARQUET_FILEPATH
CHILD = """
import logging, signal, sys, idc_index_data
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the suite was started with `&`, which ignores it
idc_index_data.IDC_INDEX_PARQUET_FILEPATH = sys.argv[1]
from vaelib.cohorts import download, transfer
transfer.ENDPOINT = sys.argv[2]
download.download(sys.argv[3], sys.argv[4])
logging.info("loud")
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    server = Bucket()
    server.index = make_index(server, tmp_path_factory.mktemp("small"))
    yield server
    server.close()


@pytest.fixture
def bucket(served, monkeypatch):
    """The bucket with every file whole, and the download and the index directed to it."""
    served.reset()
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(idc_index_data, "IDC_INDEX_PARQUET_FILEPATH", served.index)
    monkeypatch.setattr(transfer, "ENDPOINT", served.url)
    served.rows = {(row.PatientID, row.Modality): row for row in download.plan().itertuples()}
    served.ct = {patient: served.keys(served.rows[patient, "CT"].crdc_series_uuid) for patient in PATIENTS}
    served.seg = {patient: served.keys(served.rows[patient, "SEG"].crdc_series_uuid) for patient in PATIENTS}
    yield served
    served.gate.set()


@pytest.fixture
def closed(monkeypatch):
    """The address of a port where nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def start(bucket, folder):
    words = [sys.executable, "-c", CHILD, str(bucket.index), bucket.url, str(folder), "1,24"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, start_new_session=True, **pipes)


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def names(folder):
    """Every file below `folder`; `os.walk` does not mind what vanishes meanwhile."""
    return sorted(os.path.relpath(os.path.join(top, name), folder) for top, _, own in os.walk(folder) for name in own)


def whole(bucket, patients=PATIENTS):
    """Names of the files in a folder with these patients whole, and nothing else."""
    found = ["ATTRIBUTION.md"]
    for row in bucket.rows.values():
        if row.PatientID in patients:
            place = f"{row.PatientID}/{row.StudyInstanceUID}/{row.Modality}_{row.SeriesInstanceUID}/"
            found += [place + key.split("/")[1] for key in bucket.keys(row.crdc_series_uuid)]
    return sorted(found)


def seen(folder):
    return [case.patient for case in find_cases(folder)]


def test_a_whole_download_is_a_cohort(bucket, tmp_path, monkeypatch, capsys):
    out, scratch = tmp_path / 'Anna\'s "own" scans', tmp_path / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    download.download(out)
    assert names(out) == whole(bucket) and not list(out.glob(".*")) and not names(scratch)
    assert tempfile.gettempdir() == str(scratch)
    assert set(bucket.gets) == {key for kind in (bucket.ct, bucket.seg) for keys in kind.values() for key in keys}
    assert set(bucket.gets.values()) == {1}
    cases = find_cases(out)
    assert [case.patient for case in cases] == [*PATIENTS] and {case.layout for case in cases} == {"idc"}
    for number, case in enumerate(cases):
        scan = read_ct(case.ct)
        assert scan.GetSize() == (16, 16, SLICES)
        assert sitk.GetArrayFromImage(read_mask(case.mask, scan)).sum() == 2 * 4 * 6
        assert sitk.GetArrayFromImage(scan).min() == -500 + number, "a scan of another patient"
    said = (out / "ATTRIBUTION.md").read_text()
    for credit in (
        "10.7937/K9/TCIA.2016.tNB1kqBU",
        "CC BY 3.0",
        "10.5281/zenodo.12130275",
        "CC BY 4.0",
        "Clark",
        "MICCAI",
    ):
        assert credit in said
    assert capsys.readouterr().out.endswith(f"{out}: 3 patient(s) are here, whole\n")


def test_a_patient_never_stands_without_a_mask(bucket, tmp_path, monkeypatch):
    found, replace = [], os.replace

    def spied(*paths):
        replace(*paths)
        found.append([*tmp_path.glob("PANCREAS_*/*/CT_*")] and seen(tmp_path) and find_cases(tmp_path)[0].mask)

    monkeypatch.setattr(os, "replace", spied)
    download.download(tmp_path, "1")
    assert found[-1] and None not in found


def test_what_is_asked_for_is_fetched_and_nothing_else_of_the_patient(bucket, tmp_path):
    download.download(tmp_path, "1")  # of whom the index has the result of somebody else too
    assert dict(bucket.gets) == dict.fromkeys(bucket.ct[PATIENTS[0]] + bucket.seg[PATIENTS[0]], 1)


def test_nothing_is_changed_in_the_process_that_asks(bucket, tmp_path):
    """Neither where temporary files go, nor who hears what is logged; IDC's own client would, and stays away."""
    before = tempfile.tempdir, [*logging.getLogger().handlers], logging.getLogger().level
    download.download(tmp_path, "1")
    assert (tempfile.tempdir, [*logging.getLogger().handlers], logging.getLogger().level) == before
    said = "import sys, vaelib.cohorts.download; print(sorted({'idc_index', 'duckdb'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True).stdout == "[]\n"


def test_a_second_run_fetches_nothing_and_needs_neither_network_nor_room(bucket, closed, tmp_path, monkeypatch):
    download.download(tmp_path, "1")
    bucket.gets.clear()
    monkeypatch.setattr(transfer, "ENDPOINT", closed)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    (tmp_path / "ATTRIBUTION.md").unlink()
    download.download(tmp_path, "1")
    assert not bucket.gets and names(tmp_path) == whole(bucket, PATIENTS[:1])


def test_the_bar_moves_while_a_patient_comes(bucket, tmp_path, monkeypatch):
    class Bar(SimpleNamespace):
        n, early = 0, 0

        def update(self, n):
            self.n += n
            if self.n and not bucket.gate.is_set():
                self.early = self.n
                bucket.gate.set()

        __enter__ = lambda self: bars.append(self) or self  # noqa: E731
        __exit__ = set_description = lambda *rest: None  # noqa: E731

    download.download(tmp_path, "1")
    bars, bucket.held = [], {*bucket.ct[PATIENTS[1]][2:]}
    monkeypatch.setattr(download, "progress_bar", lambda **options: Bar(**options))
    download.download(tmp_path, "1,24")
    old, new = (sum(len(bucket.files[key]) for key in bucket.ct[n] + bucket.seg[n]) for n in PATIENTS[:2])
    assert [(bar.initial, bar.total, bar.n) for bar in bars] == [(old, old + new, new)]
    assert 0 < bars[0].early < new


def test_it_says_no_more_than_it_should(bucket, tmp_path):
    child = start(bucket, tmp_path)
    said, errors = child.communicate(timeout=30)
    assert child.returncode == 0 and errors == ""
    head, ct, seg, rest, end = said.splitlines()
    assert "2 patient(s)" in head and "12 instances" in ct and "2 instances" in seg
    assert "still to come" in rest and str(tmp_path) in end


@pytest.mark.parametrize("lost", ["idc_index_data", "pandas"])
def test_without_what_a_download_needs_the_command_names_the_extra(lost):
    run = "from vaelib.cli import main; sys.exit(main(['download', '--dry-run']))"
    code = f"import sys; sys.modules[{lost!r}] = None; {run}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{lost} is not installed" in done.stderr and "pip install 'vaelib[download]'" in done.stderr


@pytest.mark.parametrize("way", ["power cut", "kill -9", "Ctrl-C"])
def test_an_interrupted_download_goes_on(way, bucket, tmp_path):
    come, held = bucket.ct[PATIENTS[1]][:3], bucket.ct[PATIENTS[1]][3:] + bucket.seg[PATIENTS[1]]
    bucket.held = {*held}
    child = start(bucket, tmp_path)
    inner = tmp_path / download.STAGING
    wait_for(lambda: sum(name.endswith(".dcm") for name in names(inner)) == len(come) and {*held} <= {*bucket.gets})
    assert seen(tmp_path) == [PATIENTS[0]]
    with pytest.raises(InputError, match="another download into it is running"):
        download.download(tmp_path, "1,24")
    started = psutil.Process(child.pid).children(recursive=True)
    assert started
    if way == "power cut":
        os.killpg(child.pid, signal.SIGKILL)
    else:  # s5cmd is not told
        child.send_signal(signal.SIGKILL if way == "kill -9" else signal.SIGINT)
    child.communicate(timeout=60)
    if way != "kill -9":
        psutil.wait_procs(started, timeout=5)
        assert not any(process.is_running() for process in started)
    assert seen(tmp_path) == [PATIENTS[0]]
    parts = [name for name in names(inner) if not name.endswith(".dcm")]
    assert len(parts) == len(held), "s5cmd writes parts no more: look how they are called now"
    bucket.gate.set()
    download.download(tmp_path, "1,24")
    psutil.wait_procs(started, timeout=10)
    assert names(tmp_path) == whole(bucket, PATIENTS[:2])
    before = bucket.ct[PATIENTS[0]] + bucket.seg[PATIENTS[0]] + come
    assert {bucket.gets[key] for key in before} == {1}


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("missing", r"CT_[\d.]+: 5 of 6 files;"),
        ("refused", r"CT_[\d.]+: 5 of 6 files \(Forbidden"),
        ("not DICOM", r"CT_[\d.]+: 5 of 6 files, {name} was damaged;"),
        ("cut", r"CT_[\d.]+: 5 of 6 files, {name} was damaged;"),
        ("one byte short", r"CT_[\d.]+: 6 of 6 files, {less} of {size} bytes;"),
        ("no SEG", r"SEG_[\d.]+: 0 of 1 files \(no object found\);"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*left out 25")
def test_what_does_not_come_whole_is_named_and_mended_by_the_next_run(harm, said, bucket, tmp_path):
    key = bucket.seg[PATIENTS[1]][0] if harm == "no SEG" else bucket.ct[PATIENTS[1]][2]
    if harm in ("missing", "no SEG"):
        bucket.delete(key)
    cuts = {"not DICOM": lambda body: b"<" * len(body), "cut": lambda body: body[:-99], "refused": "403 Forbidden"}
    bucket.spoil = {key: cuts.get(harm, lambda body: body[:-1])}
    size = sum(len(bucket.files[k]) for k in bucket.ct[PATIENTS[1]])
    said = said.format(name=key.split("/")[1], size=size, less=size - 1)
    with pytest.raises(InputError, match=f"PANCREAS_0024: {said}.* run the same command again: 1 whole") as error:
        download.download(tmp_path, "24-26")
    assert "PANCREAS_0026" not in str(error.value) and seen(tmp_path) == ["PANCREAS_0026"]
    bucket.reset()
    download.download(tmp_path, "24-26")
    assert names(tmp_path) == whole(bucket, PATIENTS[1:]) and dict(bucket.gets) == {key: 1}


def test_a_series_half_in_place_is_completed(bucket, tmp_path):
    download.download(tmp_path, "1")
    _, cut, gone, *_ = sorted(path for case in find_cases(tmp_path) for path in case.ct.iterdir())
    notes = cut.with_name("notes.txt")
    notes.write_text("mine")
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:1000])
    bucket.gets.clear()
    download.download(tmp_path, "1")
    assert sorted(key.split("/")[1] for key in bucket.gets) == [cut.name, gone.name]
    notes.unlink()
    assert names(tmp_path) == whole(bucket, PATIENTS[:1])


def test_a_strange_file_in_a_series_is_named_and_not_deleted(bucket, tmp_path):
    download.download(tmp_path, "1,24")
    one, two = (next(case.ct.iterdir()) for case in find_cases(tmp_path))
    shutil.copy(one, one.with_name("z.dcm"))
    shutil.copy(one, two.with_name("strange.dcm"))
    bucket.gets.clear()
    said = r"7 of 6 files, \S+/z.dcm is a copy .*7 of 6 files, \S+/strange.dcm is .* of another series, move it"
    with pytest.raises(InputError, match=said) as error:
        download.download(tmp_path, "1,24")
    strange = [path for path in tmp_path.rglob("*.dcm") if path.name in ("z.dcm", "strange.dcm")]
    assert len(strange) == 2 and str(strange[0]) in str(error.value)
    assert not [*tmp_path.glob("PANCREAS_*/*/CT_*")], "an empty folder stands for a scan"
    for path in strange:
        path.unlink()
    download.download(tmp_path, "1,24")
    assert not bucket.gets and names(tmp_path) == whole(bucket, PATIENTS[:2])


def test_a_full_disk_is_seen_before_the_start(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=download.MARGIN + 40_000))
    for dry in (True, False):
        with pytest.raises(InputError, match="too little room: .* only 500.0 MB are; make room"):
            download.download(tmp_path / "out", dry_run=dry)
    assert not (tmp_path / "out").exists()
    download.download(tmp_path / "out", "1")  # there is room for one


def test_a_disk_that_is_full_by_a_patient_s_turn_stops_the_download(bucket, tmp_path, monkeypatch):
    free = iter((10**12, 0))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=next(free)))
    with pytest.raises(InputError, match="too little room"):
        download.download(tmp_path)
    assert not bucket.gets and next(free, "all asked") == "all asked"


def test_a_disk_that_fills_up_stops_the_download(bucket, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        monkeypatch.setattr(download, "MARGIN", 0)
        balloon = disk / "balloon"
        bucket.first = lambda: balloon.write_bytes(bytes(shutil.disk_usage(disk).free - 8192))
        with pytest.raises(InputError, match="too little room"):
            download.download(disk / "out")
        assert not {*bucket.ct[PATIENTS[1]]} & {*bucket.gets}, "went on with the next patient"
        balloon.unlink()
        download.download(disk / "out")
        assert names(disk / "out") == whole(bucket)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_no_network_is_one_line(bucket, closed, tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "ENDPOINT", closed)
    with pytest.raises(InputError, match=f"cannot reach {closed[7:]}: .*refused.*; check the network or proxy"):
        download.download(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_that_goes_away_stops_the_download(bucket, closed, tmp_path, monkeypatch):
    bucket.delete(bucket.seg[PATIENTS[0]][0])
    bucket.first = lambda: monkeypatch.setattr(transfer, "ENDPOINT", closed)
    with pytest.raises(InputError, match="cannot reach"):
        download.download(tmp_path)
    assert not {*bucket.ct[PATIENTS[1]]} & {*bucket.gets}, "went on with the next patient"


@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden", "407 Proxy Authentication Required"])
def test_the_page_of_a_proxy_is_told_from_the_bucket(status, bucket, tmp_path, monkeypatch):
    def page(environ, start_response):
        start_response(status, [("Content-Type", "text/html"), ("Content-Length", "12")])
        return [b"<html></html"]

    proxy = Server(page)
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setattr(transfer, "ENDPOINT", "http://idc.invalid")
    said = "text/html" if status == "200 OK" else status
    with pytest.raises(InputError, match=f"idc.invalid: answered .*{said}.*; a proxy or login page"):
        download.download(tmp_path / "out")
    proxy.close()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lost", ["collection", "SEG", "column", "file"])
def test_an_index_that_has_it_no_longer_says_so(lost, bucket, tmp_path, monkeypatch):
    index, rows = tmp_path / "index.parquet", pd.read_parquet(bucket.index)
    if lost == "collection":
        rows = rows[rows["collection_id"] != "pancreas_ct"]
    elif lost == "SEG":
        rows = rows[rows["analysis_result_id"] != "pancreas_ct_seg"]
    elif lost == "column":
        rows = rows.drop(columns="source_DOI")
    if lost != "file":
        rows.to_parquet(index)
    monkeypatch.setattr(idc_index_data, "IDC_INDEX_PARQUET_FILEPATH", index)
    said = {"collection": "lists no CT of pancreas_ct; update", "SEG": "lists no SEG of pancreas_ct_seg; update"}
    with pytest.raises(
        InputError, match=f"index.parquet: {said.get(lost, 'cannot be read .*install idc-index-data anew')}"
    ):
        download.plan()


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("1", [1]), ("24-26", [24, 26]), (" 1 , 24 - 24", [1, 24]), ("26,1", [1, 26]), ("1-9999", [1, 24, 26])],
)
@pytest.mark.filterwarnings("ignore:.*left out")
def test_patients_are_chosen_by_number(text, numbers, bucket):
    assert sorted(set(download.plan(text)["PatientID"])) == [f"PANCREAS_{n:04d}" for n in numbers]


@pytest.mark.parametrize("text", ["", "all", "1-", "26-24", "1,,24", "1;24", "10000", "-1"])
def test_patients_that_cannot_be_read_are_an_error(text, bucket):
    with pytest.raises(InputError, match="cannot read .*; give numbers, such as 1-4,7"):
        download.plan(text)


def test_patients_who_are_not_there_are_left_out_by_name(bucket):
    with pytest.warns(UserWarning, match="left out 25, 27: not in pancreas_ct"):
        download.plan("24-27")
    with pytest.raises(InputError, match="patients '25': pancreas_ct has none of them"):
        download.plan("25")


def test_a_dry_run_on_the_real_index_needs_no_network_and_leaves_nothing(bucket, closed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(idc_index_data, "IDC_INDEX_PARQUET_FILEPATH", REAL)
    monkeypatch.setattr(transfer, "ENDPOINT", closed)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_683_699_436))  # just enough
    download.download(tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    head, ct, seg, rest = capsys.readouterr().out.splitlines()
    assert "80 patient(s)" in head and "10.2 GB" in head
    assert f"10.2 GB are still to come to {tmp_path / 'out'}" in rest
    for word in ("80 series", "18942 instances", "10.0 GB", "CC BY 3.0", "10.7937/k9/tcia.2016.tnb1kqbu"):
        assert word in ct
    for word in ("80 series", "80 instances", "229.5 MB", "CC BY 4.0", "10.5281/zenodo.12130275"):
        assert word in seg


def test_the_real_index_is_read_in_a_moment_and_lacks_the_withdrawn(bucket, monkeypatch):
    monkeypatch.setattr(idc_index_data, "IDC_INDEX_PARQUET_FILEPATH", REAL)
    begin = time.perf_counter()
    with pytest.warns(UserWarning, match="left out 25, 70: not in"):
        plan = download.plan("1-82")
    assert time.perf_counter() - begin < 5  # 0.6 s on an idle machine
    ct = plan[plan["Modality"] == "CT"]
    assert len(ct) == 80 and ct["instanceCount"].between(181, 466).all() and ct["instanceCount"].sum() == 18942
    assert round(plan["series_size_MB"].sum() * 1e6) == 10_183_699_436
