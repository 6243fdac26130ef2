from bench.figures import Group
def compared(small: bool) -> Group: return Group("x")
