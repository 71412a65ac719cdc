"""A stand-in for IDC's bucket: moto's S3 over HTTP, with small series under the keys of the real index."""

import threading
import uuid
from collections import Counter

import boto3
import idc_index_data
import numpy as np
import pandas as pd
import pydicom
from moto.server import DomainDispatcherApplication, create_backend_app
from small import as_image
from werkzeug.serving import WSGIRequestHandler, make_server

from vaelib.dicom.write import write_ct, write_seg
from vaelib.volumes import read_ct

BUCKET = "idc-open-data"
PATIENTS = ("PANCREAS_0001", "PANCREAS_0024", "PANCREAS_0026")  # 25 was withdrawn
SLICES = 6


class Silent(WSGIRequestHandler):
    def log(self, *args):
        pass


class Server:
    """Anything that answers HTTP on a free port of this machine, one thread a request."""

    def __init__(self, app):
        self.server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Silent)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Bucket(Server):
    """The bucket, what was fetched from it, and what goes wrong on the way out.

    `gets` counts the GETs of each key. `spoil` maps a key to a function of the bytes that are sent in its place,
    or to the status of a refusal. The answers to keys in `held` wait for `gate`. `first` is called once, before
    the first file is sent.
    """

    def __init__(self):
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.files = {}
        super().__init__(self._answer)
        keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=self.url, **keys)
        self.client.create_bucket(Bucket=BUCKET)
        self.reset()

    def reset(self):
        """Every file whole, nothing counted, nothing in the way."""
        self.gets, self.spoil, self.held, self.gate = Counter(), {}, set(), threading.Event()
        self.first = None
        there = {item["Key"] for item in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", ())}
        for key in self.files.keys() - there:
            self.client.put_object(Bucket=BUCKET, Key=key, Body=self.files[key], ACL="public-read")

    def add(self, series, folder):
        """Keep the files of `folder` under the key of the series, named as IDC names them."""
        for path in sorted(folder.glob("*.dcm")):
            self.files[f"{series}/{uuid.uuid5(uuid.NAMESPACE_OID, series + path.name)}.dcm"] = path.read_bytes()

    def delete(self, key):
        self.client.delete_object(Bucket=BUCKET, Key=key)

    def keys(self, series):
        return sorted(key for key in self.files if key.startswith(series))

    def _answer(self, environ, start_response):
        key = environ["PATH_INFO"].removeprefix(f"/{BUCKET}/")
        if environ["REQUEST_METHOD"] != "GET" or key not in self.files:
            return self.moto(environ, start_response)
        self.gets[key] += 1
        if first := self.first:
            self.first = None
            first()
        if key in self.held:
            self.gate.wait(60)
        spoil = self.spoil.get(key)
        if isinstance(spoil, str):
            start_response(spoil, [("Content-Length", "0")])
            return [b""]
        return self.moto(environ, start_response) if spoil is None else self._spoiled(spoil, environ, start_response)

    def _spoiled(self, spoil, environ, start_response):
        kept = []
        body = spoil(b"".join(self.moto(environ, lambda status, headers, *rest: kept.extend((status, headers)))))
        own = {"Content-Length": str(len(body)), "Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}
        start_response(kept[0], [(name, value) for name, value in kept[1] if name.title() not in own] + [*own.items()])
        return [body]


def make_index(bucket, folder):
    """Fill `bucket` with three small patients under their real names, and write the index that fits, in `folder`.

    Two rows more must not come along: a series of another collection, and another analysis result of the patient 1.
    """
    what = [("PatientID", "in", PATIENTS), ("collection_id", "==", "pancreas_ct")]
    real = pd.read_parquet(idc_index_data.IDC_INDEX_PARQUET_FILEPATH, filters=what).sort_values("Modality")
    rows = []
    for number, (_, row) in enumerate(real.iterrows()):
        series = folder / row["PatientID"] / row["Modality"]
        (_make_ct if row["Modality"] == "CT" else _make_seg)(series, row, number)
        rows += [_fitted(row, series)]
    other = folder / PATIENTS[0] / "SEG"
    for change in ({"collection_id": "liver_ct"}, {"analysis_result_id": "someone_elses_seg"}):
        uids = {
            "crdc_series_uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, str(change))),
            "SeriesInstanceUID": f"1.2.{len(rows)}",
        }
        rows += [_fitted(real[real["Modality"] == "SEG"].iloc[0], other) | change | uids]
    for row in rows:
        row["series_aws_url"] = f"s3://{BUCKET}/{row['crdc_series_uuid']}/*"
        bucket.add(row["crdc_series_uuid"], folder / row["PatientID"] / row["Modality"])
    bucket.reset()
    pd.DataFrame(rows).astype({"instanceCount": "Int64"}).to_parquet(folder / "index.parquet")
    return folder / "index.parquet"


def _make_ct(series, row, number):
    hu = (np.indices((SLICES, 16, 16)).sum(0) * 20 - 500 + number).astype(np.int16)
    uids = {name: row[name] for name in ("StudyInstanceUID", "SeriesInstanceUID")}
    write_ct(hu, series, spacing=(1, 0.8, 0.8), patient_id=row["PatientID"], uid=row["PatientID"], tags=uids)


def _make_seg(series, row, number):
    scan, mask = series.with_name("CT"), np.zeros((SLICES, 16, 16), np.uint8)
    mask[2:4, 5:9, 6:12] = 1
    path = write_seg(as_image(mask, read_ct(scan)), scan, series / "seg.dcm", uid=row["PatientID"])
    ds = pydicom.dcmread(path)
    ds.SeriesInstanceUID = row["SeriesInstanceUID"]
    ds.save_as(path)


def _fitted(row, series):
    """The row of the index, with number and size of the small files in place of the real ones."""
    sizes = [path.stat().st_size for path in series.glob("*.dcm")]
    return row.to_dict() | {"instanceCount": len(sizes), "series_size_MB": sum(sizes) / 1e6}
