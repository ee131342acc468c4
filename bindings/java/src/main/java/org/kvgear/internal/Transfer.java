package org.kvgear.internal;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import org.kvgear.KvgException;

/**
 * A stream as the library has it during one call. Its bytes go through an array of Java's, so that a stream that keeps what it is given
 * against the rules keeps no memory of C.
 */
public final class Transfer {
  private static final int CHUNK = 1 << 16;

  private final byte[] buffer = new byte[CHUNK];
  private final InputStream in; // the other is null
  private final OutputStream out;
  private Throwable failure;

  private Transfer(InputStream in, OutputStream out) {
    this.in = in;
    this.out = out;
  }

  /**
   * Saves a cache.
   *
   * @param cache the handle
   * @param desc kvg_save_desc
   * @param out receives the bytes
   */
  public static void save(long cache, byte[] desc, OutputStream out) {
    Transfer t = new Transfer(null, out);
    try {
      Natives.saveStream(cache, desc, t, t.buffer);
    } catch (KvgException e) {
      throw t.blame(e);
    }
  }

  /**
   * Loads a cache.
   *
   * @param runtime the handle
   * @param plan the handle
   * @param desc kvg_load_desc
   * @param in gives the bytes
   * @return the handle of the cache
   */
  public static long load(long runtime, long plan, byte[] desc, InputStream in) {
    Transfer t = new Transfer(in, null);
    try {
      return Natives.loadStream(runtime, plan, desc, t, t.buffer);
    } catch (KvgException e) {
      throw t.blame(e);
    }
  }

  /**
   * Adds a saved range to a cache.
   *
   * @param cache the handle
   * @param desc kvg_load_desc
   * @param in gives the bytes
   */
  public static void extend(long cache, byte[] desc, InputStream in) {
    Transfer t = new Transfer(in, null);
    try {
      Natives.extendStream(cache, desc, t, t.buffer);
    } catch (KvgException e) {
      throw t.blame(e);
    }
  }

  private KvgException blame(KvgException e) {
    if (failure != null) {
      e.initCause(failure);
    }
    return e;
  }

  /** Called by kvgear_jni.c: moves at most n bytes, and says how many; 0 at the end, -1 for a failure. Nothing may be thrown into C. */
  int move(int n) {
    try {
      if (out != null) {
        out.write(buffer, 0, n);
        return n;
      }
      int got = in.read(buffer, 0, n);
      if (got == 0 || got > n) {
        throw new IOException("the stream says that it read " + got + " bytes into " + n);
      }
      return Math.max(got, 0);
    } catch (Throwable thrown) {
      failure = thrown;
      return -1;
    }
  }
}
