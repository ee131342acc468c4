/* go.i: what kvgear.i means for `swig -go -cgo`. The output is the package internal/raw of the Go module: one Go
 * function per C function, under cgo's rules. Constants, enumerations and structs are not SWIG's but gogen.py's, from
 * the parse tree of the same interface file: SWIG would make variables and heap-allocated proxies of them. */
%{
#include "kvgear.h"

#include <stdlib.h>
%}

%rename("%(camelcase)s", %$isfunction) "";
%rename("$ignore", %$isenum) "";
%rename("$ignore", %$isenumitem) "";
%rename("$ignore", %$isconstant) "";
%rename("$ignore", %$isclass) "";

/* widths: SWIG's defaults for these are Go's int and uint */
%typemap(gotype) int32_t "int32"
%typemap(gotype) uint32_t, kvg_dtype, kvg_device, kvg_side, kvg_log_level "uint32"

/* Results of type const char * are static strings: copied once, by Go. NULL becomes "". */
%typemap(imtype) const char * "*byte"
%typemap(out) const char * "$result = (char *)$1;"
%typemap(goout) const char * "$result = goString($1)"

/* Texts given to C are Go strings whose last byte is the terminator (the caller adds it): nothing is allocated for them. */
%typemap(imtype) const char *recipe, const char *recipes, const char *path "string"
%typemap(in) const char *recipe, const char *recipes, const char *path "$1 = $input.p;"
%typemap(freearg) const char *recipe, const char *recipes, const char *path ""

/* Errors. The detail is a local of the C wrapper, so it is of this call whichever thread the goroutine moves to. On
 * failure it is copied to the C heap and takeError() turns it into a Go error; success allocates nothing. */
%{
static long long kvg_go_failure(kvg_status status, const kvg_error *err) {
  kvg_error *copy = (kvg_error *)malloc(sizeof *copy);
  if (!copy) return status; /* no detail: a small number is a bare status */
  *copy = *err;
  copy->code = status;
  return (long long)(intptr_t)copy;
}
%}
%typemap(gotype) kvg_status "error"
%typemap(imtype) kvg_status "uint64"
%typemap(out) kvg_status "$result = 0;"
%typemap(goout) kvg_status "$result = takeError($1)"
%typemap(in, numinputs=0) kvg_error *err (kvg_error detail) "$1 = &detail;"
%typemap(argout) kvg_error *err "if (result != KVG_OK) _swig_go_result = kvg_go_failure(result, $1);"
%typemap(gotype) kvg_status status "int32"
%typemap(imtype) kvg_status status "int32"

/* A handle is a pointer to an incomplete type: typed, and nothing that the garbage collector follows. */
%define %kvg_handle(H, DESTROY)
%typemap(gotype) H *, const H * "*"#H
%typemap(gotype) H ** "**"#H
%typemap(in) H *, const H *, H ** "$1 = ($1_ltype)$input;"
%enddef

/* A struct is a Go struct of the same layout (checked by the tests), passed by its address. */
%define %kvg_versioned(S, INIT)
%typemap(gotype) S *, const S * "*"#S
%typemap(in) S *, const S * "$1 = ($1_ltype)$input;"
%enddef

/* Slices go to C as address and length; the C side keeps neither. */
%define %kvg_bytes_in(F, P, N)
%typemap(gotype) (const void *P, size_t N) "[]byte"
%typemap(in) (const void *P, size_t N) %{ $1 = $input.array; $2 = (size_t)$input.len; %}
%enddef
%define %kvg_bytes_out(F, P, N)
%typemap(gotype) (void *P, size_t N) "[]byte"
%typemap(in) (void *P, size_t N) %{ $1 = $input.array; $2 = (size_t)$input.len; %}
%enddef
%define %kvg_text_out(F, P, N, NEEDED)
%typemap(gotype) (char *P, size_t N) "[]byte"
%typemap(in) (char *P, size_t N) %{ $1 = (char *)$input.array; $2 = (size_t)$input.len; %}
%typemap(gotype) size_t *NEEDED "*uint64"
%typemap(in) size_t *NEEDED "$1 = (size_t *)$input;"
%enddef
%define %kvg_list_in(F, T, P, N)
%typemap(gotype) (const T *P, size_t N) "[]" #T
%typemap(in) (const T *P, size_t N) %{ $1 = ($1_ltype)$input.array; $2 = (size_t)$input.len; %}
%enddef
%define %kvg_list_out(F, T, P, N, NEEDED)
%typemap(gotype) (T *P, size_t N) "[]" #T
%typemap(in) (T *P, size_t N) %{ $1 = ($1_ltype)$input.array; $2 = (size_t)$input.len; %}
%typemap(gotype) size_t *NEEDED "*uint64"
%typemap(in) size_t *NEEDED "$1 = (size_t *)$input;"
%enddef
%define %kvg_handles_in(F, H, P, N)
%typemap(gotype) (const H *const *P, size_t N) "[]*" #H
%typemap(in) (const H *const *P, size_t N) %{ $1 = ($1_ltype)$input.array; $2 = (size_t)$input.len; %}
%typemap(gotype) (H *const *P, size_t N) "[]*" #H
%typemap(in) (H *const *P, size_t N) %{ $1 = ($1_ltype)$input.array; $2 = (size_t)$input.len; %}
%enddef
%define %kvg_value_out(F, T, P)
%typemap(gotype) T *P "*" #T
%typemap(in) T *P "$1 = ($1_ltype)$input;"
%enddef

/* Implied by the typemaps above. */
%define %kvg_creates(F, P)
%enddef
%define %kvg_struct_out(F, S, P)
%enddef
%define %kvg_keeps(H, HANDLES)
%enddef
%define %kvg_optional(F, P)
%enddef
%define %kvg_raw(F)
%enddef
/* internal/raw/log.go and stream.go have them. */
%define %kvg_calls_back(F)
%ignore F;
%enddef
