package org.kvgear.internal;

import java.util.function.BiConsumer;
import org.kvgear.KvgException;

/** The log sink of one runtime. */
public final class Log {
  /** The log whose sink runs on this thread. */
  static final ThreadLocal<Log> RUNNING = new ThreadLocal<>();

  private long kept;

  /**
   * Refuses what would wait for itself: the library waits for a running sink before it takes another.
   *
   * @param operation what is to be done
   */
  public void refuseInSink(String operation) {
    if (RUNNING.get() == this) {
      throw new KvgException(operation, RawConstants.KVG_E_STATE, "a log sink must not set the sink of its runtime or close it");
    }
  }

  /**
   * Sets the sink, or with null removes it.
   *
   * @param runtime the handle, which must stay alive during the call
   * @param sink takes the level's number and the line
   */
  public synchronized void set(long runtime, BiConsumer<Integer, String> sink) {
    long now = Natives.setLog(runtime, sink == null ? null : new LogSlot(this, sink));
    if (kept != 0) {
      Natives.freeLog(kept); // the library has said that it is not running and never will
    }
    kept = now;
  }

  /**
   * Does what waits for a running sink: at once, or in another thread if this one is in the sink.
   *
   * @param work what is to be done
   */
  public void outsideSink(Runnable work) {
    if (RUNNING.get() != this) {
      work.run();
      return;
    }
    Thread thread = new Thread(work, "kvgear");
    thread.setDaemon(true);
    thread.start();
  }
}
