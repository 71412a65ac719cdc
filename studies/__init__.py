"""The measurements that the lessons report: each trains, scores, and writes its numbers."""
