package org.kvgear.internal;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;

/** Fields of a struct of C's that lies in an array, at the offsets of {@link Structs}. */
public final class Struct {
  private static final VarHandle INT = view(int[].class);
  private static final VarHandle LONG = view(long[].class);
  private static final VarHandle FLOAT = view(float[].class);
  private static final VarHandle DOUBLE = view(double[].class);

  private static VarHandle view(Class<?> type) {
    return MethodHandles.byteArrayViewVarHandle(type, ByteOrder.nativeOrder());
  }

  /**
   * A struct of zeros whose first field, struct_size, is set.
   *
   * @param size its size
   * @return the struct
   */
  public static byte[] make(int size) {
    byte[] s = new byte[size];
    INT.set(s, 0, size);
    return s;
  }

  public static void putInt(byte[] s, int offset, int x) {
    INT.set(s, offset, x);
  }

  public static void putLong(byte[] s, int offset, long x) {
    LONG.set(s, offset, x);
  }

  public static void putFloat(byte[] s, int offset, float x) {
    FLOAT.set(s, offset, x);
  }

  public static void putDouble(byte[] s, int offset, double x) {
    DOUBLE.set(s, offset, x);
  }

  public static int getInt(byte[] s, int offset) {
    return (int) INT.get(s, offset);
  }

  public static long getLong(byte[] s, int offset) {
    return (long) LONG.get(s, offset);
  }

  public static double getDouble(byte[] s, int offset) {
    return (double) DOUBLE.get(s, offset);
  }

  private Struct() {}
}
