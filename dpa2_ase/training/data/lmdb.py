def is_lmdb(p): return False
def read_lmdb(*a): raise NotImplementedError
def write_lmdb(*a): raise NotImplementedError
