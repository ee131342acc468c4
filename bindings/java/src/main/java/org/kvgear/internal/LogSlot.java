package org.kvgear.internal;

import java.nio.charset.StandardCharsets;
import java.util.function.BiConsumer;

/** A log sink as the library has it: each line comes to {@link #deliver}, on any thread. */
final class LogSlot {
  private final Log log;
  private final BiConsumer<Integer, String> sink;

  LogSlot(Log log, BiConsumer<Integer, String> sink) {
    this.log = log;
    this.sink = sink;
  }

  /** Called by kvgear_jni.c. Nothing may be thrown into C. */
  void deliver(int level, byte[] message) {
    Log outer = Log.RUNNING.get(); // a sink may use another runtime, which has a sink of its own
    Log.RUNNING.set(log);
    try {
      sink.accept(level, new String(message, StandardCharsets.UTF_8));
    } catch (Throwable thrown) {
      Thread thread = Thread.currentThread();
      try {
        thread.getUncaughtExceptionHandler().uncaughtException(thread, thrown);
      } catch (Throwable ignored) {
        // As Java does with what a handler throws.
      }
    } finally {
      if (outer == null) {
        Log.RUNNING.remove();
      } else {
        Log.RUNNING.set(outer);
      }
    }
  }
}
