package org.kvgear;

import java.lang.ref.Cleaner;
import org.kvgear.internal.Handle;

/** Ends the handles of objects that are closed, or that became garbage without it. */
final class Ends {
  private static final Cleaner CLEANER = Cleaner.create();

  static Cleaner.Cleanable when(Object owner, Handle handle) {
    try {
      return CLEANER.register(owner, handle);
    } catch (Throwable e) { // no memory: nobody would end it
      handle.run();
      throw e;
    }
  }

  private Ends() {}
}
