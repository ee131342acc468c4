/* kvgear_jni.c: what SWIG does not write of the Java binding: loading the library, exceptions, addresses of buffers, log lines, streams. The
 * natives of the class org.kvgear.internal.Natives. */
#include "kvgear_jni.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NATIVE(TYPE, NAME) JNIEXPORT TYPE JNICALL Java_org_kvgear_internal_Natives_##NAME

struct kvg_functions kvg_functions;

static JavaVM *vm;
static jclass natives;        /* org.kvgear.internal.Natives */
static jmethodID failure;     /* its method that makes a KvgException */
static jmethodID log_deliver; /* org.kvgear.internal.LogSlot.deliver */
static jmethodID stream_move; /* org.kvgear.internal.Transfer.move */

JNIEXPORT jint JNICALL JNI_OnLoad(JavaVM *java, void *reserved) {
  JNIEnv *env = NULL;
  jclass found, slot, transfer;
  (void)reserved;
  vm = java;
  if ((*vm)->GetEnv(vm, (void **)&env, JNI_VERSION_10) != JNI_OK) return JNI_ERR;
  found = (*env)->FindClass(env, "org/kvgear/internal/Natives");
  if (!found) return JNI_ERR;
  natives = (jclass)(*env)->NewGlobalRef(env, found);
  (*env)->DeleteLocalRef(env, found);
  if (!natives) return JNI_ERR;
  failure = (*env)->GetStaticMethodID(env, natives, "failure", "(Ljava/lang/String;I[B)Ljava/lang/Throwable;");
  if (!failure) return JNI_ERR;
  slot = (*env)->FindClass(env, "org/kvgear/internal/LogSlot");
  if (!slot) return JNI_ERR;
  log_deliver = (*env)->GetMethodID(env, slot, "deliver", "(I[B)V");
  (*env)->DeleteLocalRef(env, slot);
  if (!log_deliver) return JNI_ERR;
  transfer = (*env)->FindClass(env, "org/kvgear/internal/Transfer");
  if (!transfer) return JNI_ERR;
  stream_move = (*env)->GetMethodID(env, transfer, "move", "(I)I");
  (*env)->DeleteLocalRef(env, transfer);
  return stream_move ? JNI_VERSION_10 : JNI_ERR;
}

JNIEXPORT void JNICALL JNI_OnUnload(JavaVM *java, void *reserved) {
  JNIEnv *env = NULL;
  (void)reserved;
  if ((*java)->GetEnv(java, (void **)&env, JNI_VERSION_10) == JNI_OK) (*env)->DeleteGlobalRef(env, natives);
}

/* Texts go to Java as the bytes that they are: JNI's own strings are not UTF-8. NULL with an exception pending. */
static jbyteArray bytes_of(JNIEnv *env, const char *text) {
  const jsize length = (jsize)strlen(text);
  jbyteArray bytes = (*env)->NewByteArray(env, length);
  if (bytes) (*env)->SetByteArrayRegion(env, bytes, 0, length, (const jbyte *)text);
  return bytes;
}

void kvg_jni_throw(JNIEnv *env, const char *operation, kvg_status status, const char *message) {
  jstring name = (*env)->NewStringUTF(env, operation);
  jbyteArray bytes = name ? bytes_of(env, message) : NULL;
  if (bytes) {
    jobject thrown = (*env)->CallStaticObjectMethod(env, natives, failure, name, (jint)status, bytes);
    if (!(*env)->ExceptionCheck(env)) (*env)->Throw(env, (jthrowable)thrown);
    if (thrown) (*env)->DeleteLocalRef(env, thrown);
  }
  if (bytes) (*env)->DeleteLocalRef(env, bytes);
  if (name) (*env)->DeleteLocalRef(env, name);
}

/* ------------------------------------------------------------------ loading */

/* A handle of the library at `path` (a terminated name), or an exception with the loader's reason. */
NATIVE(jlong, open)(JNIEnv *env, jclass self, jbyteArray path) {
  void *library;
  jbyte *name = (*env)->GetByteArrayElements(env, path, NULL);
  (void)self;
  if (!name) return 0;
  library = dlopen((const char *)name, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *reason = dlerror();
    kvg_jni_throw(env, "load", KVG_E_IO, reason ? reason : "the system gives no reason");
  }
  (*env)->ReleaseByteArrayElements(env, path, name, JNI_ABORT);
  return (jlong)(intptr_t)library;
}

NATIVE(void, close)(JNIEnv *env, jclass self, jlong library) {
  (void)env, (void)self;
  dlclose((void *)(intptr_t)library);
}

/* What kvg_abi_version or kvg_abi_min of the library says; -1 when it has no such function. */
NATIVE(jlong, abi)(JNIEnv *env, jclass self, jlong library, jboolean newest) {
  uint32_t (*version)(void) = NULL;
  (void)env, (void)self;
  *(void **)&version = dlsym((void *)(intptr_t)library, newest ? "kvg_abi_version" : "kvg_abi_min");
  return version ? (jlong)version() : -1;
}

/* Looks up all functions. The name of one that is missing, else NULL: from then on they may be called. */
NATIVE(jstring, bind)(JNIEnv *env, jclass self, jlong library) {
  static const char *const names[] = {KVG_FUNCTION_NAMES};
  void *found[sizeof names / sizeof names[0]];
  size_t i;
  (void)self;
  for (i = 0; i < sizeof names / sizeof names[0]; i++) {
    found[i] = dlsym((void *)(intptr_t)library, names[i]);
    if (!found[i]) return (*env)->NewStringUTF(env, names[i]);
  }
  _Static_assert(sizeof found == sizeof kvg_functions, "one name for each function");
  memcpy(&kvg_functions, found, sizeof found);
  return NULL;
}

/* ------------------------------------------------------------------ buffers */

/* Where the memory of a direct buffer begins, whatever its position. */
NATIVE(jlong, address)(JNIEnv *env, jclass self, jobject buffer) {
  (void)self;
  return (jlong)(intptr_t)(*env)->GetDirectBufferAddress(env, buffer);
}

/* --------------------------------------------------------------- calling back */

/* What Java needs to be called on this thread; one that Java does not know is attached until let_go. NULL where that fails: Java is
 * ending. */
static JNIEnv *take_hold(jint *state) {
  JNIEnv *env = NULL;
  *state = (*vm)->GetEnv(vm, (void **)&env, JNI_VERSION_10);
  if (*state == JNI_EDETACHED) {
    JavaVMAttachArgs how = {JNI_VERSION_10, (char *)"kvgear", NULL};
    /* A daemon: it must not keep the program from ending. */
    return (*vm)->AttachCurrentThreadAsDaemon(vm, (void **)&env, &how) == JNI_OK ? env : NULL;
  }
  return *state == JNI_OK ? env : NULL;
}

static void let_go(jint state) {
  if (state == JNI_EDETACHED) (*vm)->DetachCurrentThread(vm);
}

/* ----------------------------------------------------------------- log lines */

/* kvg_log_fn: `user` is a global reference to a LogSlot. */
static void deliver(void *user, kvg_log_level level, const char *message) {
  jint state;
  JNIEnv *env = take_hold(&state);
  jbyteArray line;
  if (!env) return; /* nobody reads the line */
  line = bytes_of(env, message);
  if (line) {
    (*env)->CallVoidMethod(env, (jobject)user, log_deliver, (jint)level, line);
    if ((*env)->ExceptionCheck(env)) (*env)->ExceptionClear(env); /* LogSlot lets none out but when memory is short */
    (*env)->DeleteLocalRef(env, line);
  } else {
    (*env)->ExceptionClear(env); /* no memory: the line is lost, the call that it tells of is not */
  }
  let_go(state);
}

/* Sets or, with null, removes the sink; the result is what the library keeps of it, for freeLog after the next setLog. */
NATIVE(jlong, setLog)(JNIEnv *env, jclass self, jlong runtime, jobject slot) {
  kvg_error detail;
  kvg_status status;
  jobject kept = NULL;
  (void)self;
  if (slot) {
    kept = (*env)->NewGlobalRef(env, slot);
    if (!kept) {
      kvg_jni_throw(env, "kvg_runtime_set_log", KVG_E_NOMEM, "no memory for a global reference");
      return 0;
    }
  }
  status = kvg_runtime_set_log((kvg_runtime *)(intptr_t)runtime, kept ? deliver : NULL, kept, &detail);
  if (status != KVG_OK) {
    if (kept) (*env)->DeleteGlobalRef(env, kept);
    kvg_jni_throw(env, "kvg_runtime_set_log", status, detail.message);
    return 0;
  }
  return (jlong)(intptr_t)kept;
}

NATIVE(void, freeLog)(JNIEnv *env, jclass self, jlong kept) {
  (void)self;
  (*env)->DeleteGlobalRef(env, (jobject)(intptr_t)kept);
}

/* ------------------------------------------------------------------- streams */

/* `user` of the functions below: a stream of Java's and the array that its bytes go through, by global references. */
struct transfer {
  jobject object;
  jbyteArray buffer;
  jsize room;
};

static int64_t move(const struct transfer *t, const void *from, void *into, uint64_t bytes) {
  jint state, moved;
  JNIEnv *env = take_hold(&state);
  const jsize n = bytes < (uint64_t)t->room ? (jsize)bytes : t->room;
  if (!env) return -1;
  if (from) (*env)->SetByteArrayRegion(env, t->buffer, 0, n, (const jbyte *)from);
  moved = (*env)->CallIntMethod(env, t->object, stream_move, (jint)n);
  if ((*env)->ExceptionCheck(env)) { /* Transfer lets none out but when memory is short */
    (*env)->ExceptionClear(env);
    moved = -1;
  }
  if (into && moved > 0) (*env)->GetByteArrayRegion(env, t->buffer, 0, moved, (jbyte *)into);
  let_go(state);
  return moved;
}

static int64_t write_stream(void *user, const void *data, uint64_t bytes) { return move(user, data, NULL, bytes); }

static int64_t read_stream(void *user, void *data, uint64_t bytes) { return move(user, NULL, data, bytes); }

/* False with an exception pending. end_transfer must follow in any case. */
static int begin_transfer(JNIEnv *env, const char *operation, struct transfer *t, jobject object, jbyteArray buffer) {
  t->object = (*env)->NewGlobalRef(env, object);
  t->buffer = (jbyteArray)(*env)->NewGlobalRef(env, buffer);
  t->room = (*env)->GetArrayLength(env, buffer);
  if (t->object && t->buffer) return 1;
  kvg_jni_throw(env, operation, KVG_E_NOMEM, "no memory for a global reference");
  return 0;
}

static void end_transfer(JNIEnv *env, const struct transfer *t) {
  if (t->object) (*env)->DeleteGlobalRef(env, t->object);
  if (t->buffer) (*env)->DeleteGlobalRef(env, t->buffer);
}

/* A struct as Java has it. False with an exception pending: the array is too short. */
static int get_struct(JNIEnv *env, jbyteArray from, void *to, size_t size) {
  (*env)->GetByteArrayRegion(env, from, 0, (jsize)size, (jbyte *)to);
  return !(*env)->ExceptionCheck(env);
}

NATIVE(void, saveStream)(JNIEnv *env, jclass self, jlong cache, jbyteArray desc, jobject object, jbyteArray buffer) {
  static const char operation[] = "kvg_cache_save_stream";
  struct transfer t;
  kvg_save_desc d;
  kvg_error detail;
  (void)self;
  if (begin_transfer(env, operation, &t, object, buffer) && get_struct(env, desc, &d, sizeof d)) {
    const kvg_status status = kvg_cache_save_stream((kvg_cache *)(intptr_t)cache, write_stream, &t, &d, &detail);
    if (status != KVG_OK) kvg_jni_throw(env, operation, status, detail.message);
  }
  end_transfer(env, &t);
}

NATIVE(jlong, loadStream)
(JNIEnv *env, jclass self, jlong runtime, jlong plan, jbyteArray desc, jobject object, jbyteArray buffer) {
  static const char operation[] = "kvg_cache_load_stream";
  struct transfer t;
  kvg_load_desc d;
  kvg_cache *out = NULL;
  kvg_error detail;
  (void)self;
  if (begin_transfer(env, operation, &t, object, buffer) && get_struct(env, desc, &d, sizeof d)) {
    const kvg_status status = kvg_cache_load_stream((kvg_runtime *)(intptr_t)runtime, (kvg_plan *)(intptr_t)plan, read_stream, &t,
                                                    &d, &out, &detail);
    if (status != KVG_OK) kvg_jni_throw(env, operation, status, detail.message);
  }
  end_transfer(env, &t);
  return (jlong)(intptr_t)out;
}

NATIVE(void, extendStream)(JNIEnv *env, jclass self, jlong cache, jbyteArray desc, jobject object, jbyteArray buffer) {
  static const char operation[] = "kvg_cache_extend_stream";
  struct transfer t;
  kvg_load_desc d;
  kvg_error detail;
  (void)self;
  if (begin_transfer(env, operation, &t, object, buffer) && get_struct(env, desc, &d, sizeof d)) {
    const kvg_status status = kvg_cache_extend_stream((kvg_cache *)(intptr_t)cache, read_stream, &t, &d, &detail);
    if (status != KVG_OK) kvg_jni_throw(env, operation, status, detail.message);
  }
  end_transfer(env, &t);
}
