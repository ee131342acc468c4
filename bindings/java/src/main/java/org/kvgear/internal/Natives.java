package org.kvgear.internal;

import java.nio.Buffer;
import java.nio.charset.StandardCharsets;
import org.kvgear.KvgException;

/** The functions of kvgear_jni.c: what the raw layer needs beside SWIG's. */
public final class Natives {
  static native long open(byte[] path);

  static native void close(long library);

  static native long abi(long library, boolean newest);

  static native String bind(long library);

  /**
   * Where the memory of a direct buffer begins, whatever its position.
   *
   * @param buffer a direct buffer
   * @return its address
   */
  public static native long address(Buffer buffer);

  static native long setLog(long runtime, LogSlot slot);

  static native void freeLog(long kept);

  static native void saveStream(long cache, byte[] desc, Transfer transfer, byte[] buffer);

  static native long loadStream(long runtime, long plan, byte[] desc, Transfer transfer, byte[] buffer);

  static native void extendStream(long cache, byte[] desc, Transfer transfer, byte[] buffer);

  /** Called by kvg_jni_throw. */
  static Throwable failure(String operation, int code, byte[] message) {
    return new KvgException(operation, code, new String(message, StandardCharsets.UTF_8));
  }

  private Natives() {}
}
