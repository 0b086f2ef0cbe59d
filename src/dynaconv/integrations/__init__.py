"""Bridges to other libraries; each file needs the library it is named for."""
