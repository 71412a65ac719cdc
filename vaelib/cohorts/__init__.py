"""Cohorts on disk: their layouts, labels and where these lie, the download, the survey."""
