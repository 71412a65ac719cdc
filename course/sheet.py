FILE = None
