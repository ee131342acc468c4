/* kvgear_jni.h: what SWIG's wrapper and kvgear_jni.c share. */
#ifndef KVGEAR_JNI_H_
#define KVGEAR_JNI_H_

#include <jni.h>
#include <kvgear/kvgear.h>

#pragma GCC visibility push(hidden)

#include "functions.h"

_Static_assert(sizeof(jlong) == sizeof(void *), "an array of long is a list of handles");

/* Makes a KvgException pending; `message` is UTF-8. */
void kvg_jni_throw(JNIEnv *env, const char *operation, kvg_status status, const char *message);

#pragma GCC visibility pop

#endif /* KVGEAR_JNI_H_ */
