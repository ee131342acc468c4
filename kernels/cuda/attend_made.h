// The kernels of attend that there are: KVG_ATTEND_SPEC(name, forms and widths of K and V, sparse).
//
// Included by attend.cu. Each has a file attend_<name>.cu. The last one takes whatever codes come.
#ifdef KVG_ATTEND_SPEC
KVG_ATTEND_SPEC(rows, kStagedRows, 16, kStagedRows, 16, false)
KVG_ATTEND_SPEC(t8_t8, kByToken, 8, kByToken, 8, false)
KVG_ATTEND_SPEC(t4_t4, kByToken, 4, kByToken, 4, false)
KVG_ATTEND_SPEC(c4_t4, kByChannel, 4, kByToken, 4, false)
KVG_ATTEND_SPEC(c2_t2, kByChannel, 2, kByToken, 2, false)
KVG_ATTEND_SPEC(c4_t4_sparse, kByChannel, 4, kByToken, 4, true)
KVG_ATTEND_SPEC(c2_t2_sparse, kByChannel, 2, kByToken, 2, true)
KVG_ATTEND_SPEC(any, kAnyForm, 8, kAnyForm, 8, true)
#endif
