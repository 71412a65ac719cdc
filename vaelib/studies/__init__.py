"""The measurements that the notebooks report: each study trains, scores, and puts its numbers into `results.json`."""
