"""Rust bindings from the XML parse tree of SWIG. See README.md in the folder above."""
