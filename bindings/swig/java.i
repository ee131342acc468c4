/* java.i: what kvgear.i means for `swig -java`. The output is the raw layer of org.kvgear: one static native method per
 * C function, whose arguments are numbers and arrays of the heap alone. Handles and addresses of tensors are long, structs
 * are byte[] of the same layout (offsets: javagen.py), texts are byte[] in UTF-8. Nothing is kept after a call, and nothing
 * but texts is allocated for it.
 *
 * The C functions are called through a table that is filled when the library is loaded: functions.h, of javagen.py. */
%{
#include "kvgear_jni.h"

#include <stdlib.h>
%}

%pragma(java) moduleclassmodifiers="public final class"
%pragma(java) jniclassclassmodifiers="final class"

/* Constants and items of enumerations become Java's own compile-time constants. */
%include "enumsimple.swg"
%javaconst(1);
%rename("$ignore", %$isclass) "";
%ignore KVG_ALL_LAYERS; /* 0xFFFFFFFFu is no int of Java's; javagen.py has it */

/* widths: unsigned numbers are the same bits in a signed type */
%apply int { uint32_t, kvg_dtype, kvg_device, kvg_side, kvg_log_level };
%apply long long { int64_t, uint64_t, size_t };

/* Results of type const char * are static strings: SWIG's default. Texts given to C are byte[], whose last byte is the
 * terminator (the caller adds it). */
%typemap(jni) const char *recipe, const char *recipes, const char *path "jbyteArray"
%typemap(jtype) const char *recipe, const char *recipes, const char *path "byte[]"
%typemap(jstype) const char *recipe, const char *recipes, const char *path "byte[]"
%typemap(javain) const char *recipe, const char *recipes, const char *path "$javainput"
%typemap(in) const char *recipe (jbyte *text = NULL), const char *recipes (jbyte *text = NULL), const char *path (jbyte *text = NULL) %{
  if ($input) {
    text = (*jenv)->GetByteArrayElements(jenv, $input, NULL);
    if (!text) {
      $cleanup
      return $null; /* an OutOfMemoryError is pending */
    }
  }
  $1 = (char *)text;
%}
%typemap(freearg) const char *recipe, const char *recipes, const char *path %{
  if (text$argnum) (*jenv)->ReleaseByteArrayElements(jenv, $input, text$argnum, JNI_ABORT);
%}

/* Errors. The detail is a local of the C wrapper and becomes a KvgException in the same call. It is thrown behind all
 * other typemaps, for err is the last parameter: nothing may be stored while an exception is pending. */
%typemap(jni) kvg_status "void"
%typemap(jtype) kvg_status "void"
%typemap(jstype) kvg_status "void"
%typemap(javaout) kvg_status "{ $jnicall; }"
%typemap(out) kvg_status ""
%typemap(in, numinputs=0) kvg_error *err (kvg_error detail) "$1 = &detail;"
%typemap(argout) kvg_error *err "if (result != KVG_OK) kvg_jni_throw(jenv, \"$symname\", result, $1->message);"
%apply int { kvg_status status };
%typemap(in) kvg_status status "$1 = (kvg_status)$input;"

/* A result through a pointer goes to the first element of an array. */
%define %kvg_java_long_out(TYPE, P)
%typemap(jni) TYPE *P "jlongArray"
%typemap(jtype) TYPE *P "long[]"
%typemap(jstype) TYPE *P "long[]"
%typemap(javain) TYPE *P "$javainput"
%typemap(in) TYPE *P (TYPE value = 0) "$1 = &value;"
%typemap(argout) TYPE *P %{
  {
    const jlong stored = (jlong)(intptr_t)value$argnum;
    (*jenv)->SetLongArrayRegion(jenv, $input, 0, 1, &stored);
  }
%}
%enddef

%define %kvg_java_address(TYPE)
%typemap(jni) TYPE "jlong"
%typemap(jtype) TYPE "long"
%typemap(jstype) TYPE "long"
%typemap(javain) TYPE "$javainput"
%typemap(in) TYPE "$1 = ($1_ltype)(intptr_t)$input;"
%enddef

%define %kvg_handle(H, DESTROY)
%kvg_java_address(H *)
%kvg_java_address(const H *)
%kvg_java_long_out(H *, )
%enddef

/* A struct goes to C, and what C changed comes back, as the bytes of an array. An array that is too short throws. */
%define %kvg_versioned(S, INIT)
%typemap(jni) S *, const S * "jbyteArray"
%typemap(jtype) S *, const S * "byte[]"
%typemap(jstype) S *, const S * "byte[]"
%typemap(javain) S *, const S * "$javainput"
%typemap(in) S * (S copy), const S * (S copy) %{
  if ($input) {
    (*jenv)->GetByteArrayRegion(jenv, $input, 0, (jsize)sizeof copy, (jbyte *)&copy);
    if ((*jenv)->ExceptionCheck(jenv)) {
      $cleanup
      return $null; /* the array is too short */
    }
    $1 = &copy;
  }
%}
%typemap(argout) const S * ""
%typemap(argout) S * %{
  if ($input) (*jenv)->SetByteArrayRegion(jenv, $input, 0, (jsize)sizeof copy$argnum, (jbyte *)&copy$argnum);
%}
%typemap(freearg) S *, const S * ""
%enddef

/* Tensors are addresses and lengths. */
%define %kvg_bytes_in(F, P, N)
%kvg_java_address(const void *P)
%enddef
%define %kvg_bytes_out(F, P, N)
%kvg_java_address(void *P)
%enddef

%define %kvg_text_out(F, P, N, NEEDED)
%typemap(jni) (char *P, size_t N) "jbyteArray"
%typemap(jtype) (char *P, size_t N) "byte[]"
%typemap(jstype) (char *P, size_t N) "byte[]"
%typemap(javain) (char *P, size_t N) "$javainput"
%typemap(in) (char *P, size_t N) (jsize length = 0) %{
  length = (*jenv)->GetArrayLength(jenv, $input);
  $1 = (char *)malloc((size_t)length + 1);
  if (!$1) {
    $cleanup
    SWIG_JavaThrowException(jenv, SWIG_JavaOutOfMemoryError, "no memory for a text");
    return $null;
  }
  $2 = (size_t)length;
%}
%typemap(argout) (char *P, size_t N) %{
  if (result == KVG_OK) (*jenv)->SetByteArrayRegion(jenv, $input, 0, length$argnum, (jbyte *)$1);
%}
%typemap(freearg) (char *P, size_t N) "free($1);"
%kvg_java_long_out(size_t, NEEDED)
%enddef

/* Lists of numbers are arrays, which JNI may copy; no critical sections, for the library calls back. */
%define %kvg_java_array(TYPE, P, N, MODE, ARRAY, JAVA, ELEMENT, NAME)
%typemap(jni) (TYPE P, size_t N) #ARRAY
%typemap(jtype) (TYPE P, size_t N) #JAVA "[]"
%typemap(jstype) (TYPE P, size_t N) #JAVA "[]"
%typemap(javain) (TYPE P, size_t N) "$javainput"
%typemap(in) (TYPE P, size_t N) (ELEMENT *elements = NULL) {
  $2 = 0;
  if ($input) {
    elements = (*jenv)->Get##NAME##ArrayElements(jenv, $input, NULL);
    if (!elements) {
      $cleanup
      return $null; /* an OutOfMemoryError is pending */
    }
    $2 = (size_t)(*jenv)->GetArrayLength(jenv, $input);
  }
  $1 = ($1_ltype)elements;
}
%typemap(argout) (TYPE P, size_t N) ""
%typemap(freearg) (TYPE P, size_t N) {
  if (elements$argnum) (*jenv)->Release##NAME##ArrayElements(jenv, $input, elements$argnum, MODE);
}
%enddef
%define %kvg_java_array_of_uint64_t(TYPE, P, N, MODE)
%kvg_java_array(TYPE, P, N, MODE, jlongArray, long, jlong, Long)
%enddef
%define %kvg_java_array_of_uint32_t(TYPE, P, N, MODE)
%kvg_java_array(TYPE, P, N, MODE, jintArray, int, jint, Int)
%enddef
%define %kvg_java_array_of_uint8_t(TYPE, P, N, MODE)
%kvg_java_array(TYPE, P, N, MODE, jbyteArray, byte, jbyte, Byte)
%enddef
%define %kvg_java_array_of_float(TYPE, P, N, MODE)
%kvg_java_array(TYPE, P, N, MODE, jfloatArray, float, jfloat, Float)
%enddef
%define %kvg_list_in(F, T, P, N)
%kvg_java_array_of_##T(const T *, P, N, JNI_ABORT)
%enddef
%define %kvg_list_out(F, T, P, N, NEEDED)
%kvg_java_array_of_##T(T *, P, N, 0)
%kvg_java_long_out(size_t, NEEDED)
%enddef
/* A handle is a long, and as wide: kvgear_jni.h. */
%define %kvg_handles_in(F, H, P, N)
%kvg_java_array(const H *const *, P, N, JNI_ABORT, jlongArray, long, jlong, Long)
%kvg_java_array(H *const *, P, N, JNI_ABORT, jlongArray, long, jlong, Long)
%enddef

%define %kvg_value_out(F, T, P)
%kvg_java_long_out(T, P)
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
/* kvgear_jni.c has them. */
%define %kvg_calls_back(F)
%ignore F;
%enddef
