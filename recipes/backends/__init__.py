"""Where weights live, one module or folder each: the only modules that import a vendor package."""
