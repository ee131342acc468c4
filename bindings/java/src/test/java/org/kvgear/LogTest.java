package org.kvgear;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.kvgear.Support.ROW;
import static org.kvgear.Support.assertFails;
import static org.kvgear.Support.fill;
import static org.kvgear.Support.open;

import java.lang.ref.WeakReference;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Log lines that the library writes itself; LibraryTest has those from threads that Java does not know. */
@Timeout(60)
class LogTest {
  private static final Tensor X = Tensor.copyOf(fill(300 * ROW, 1));

  @Test
  void linesOfSealing() {
    try (var o = open(RuntimeOptions.DEFAULT, "int8,window=64")) {
      List<String> lines = Collections.synchronizedList(new ArrayList<>());
      o.runtime().setLog((level, message) -> {
        System.gc(); // what the sink refers to must survive
        lines.add(level + " " + message);
      });
      o.cache().append(0, X, X);
      int seen = lines.size();
      assertTrue(lines.stream().anyMatch(l -> l.contains("seal")), lines.toString());
      o.runtime().setLog(null);
      o.cache().append(0, X, X);
      assertEquals(seen, lines.size(), "a removed sink is called");
    }
  }

  @Test
  void whatASinkThrowsEndsItAlone() {
    Thread thread = Thread.currentThread();
    Thread.UncaughtExceptionHandler before = thread.getUncaughtExceptionHandler();
    List<Throwable> thrown = Collections.synchronizedList(new ArrayList<>());
    thread.setUncaughtExceptionHandler((t, e) -> {
      thrown.add(e);
      throw new IllegalStateException("a handler may throw too");
    });
    try (var o = open(RuntimeOptions.DEFAULT, "int8,window=64")) {
      o.runtime().setLog((level, message) -> {
        throw new IllegalArgumentException(message);
      });
      o.cache().append(0, X, X);
      assertEquals(300, o.cache().length(0));
      assertFalse(thrown.isEmpty());
      assertTrue(thrown.stream().allMatch(e -> e instanceof IllegalArgumentException), thrown.toString());
    } finally {
      thread.setUncaughtExceptionHandler(before);
    }
  }

  /** Calls that would wait for themselves are refused; others go on as usual. */
  @Test
  void callsFromASink() {
    try (var o = open(RuntimeOptions.DEFAULT, "int8,window=64"); KvgCache other = o.runtime().newCache(o.plan())) {
      AtomicInteger lines = new AtomicInteger();
      List<AssertionError> errors = Collections.synchronizedList(new ArrayList<>());
      o.runtime().setLog((level, message) -> {
        lines.incrementAndGet();
        try {
          assertFails(Status.STATE, "log sink", () -> o.runtime().setLog(null));
          assertFails(Status.STATE, "log sink", o.runtime()::close);
          assertFails(Status.STATE, "log sink", () -> o.cache().length(0));
          assertFails(Status.STATE, "log sink", () -> o.cache().clear());
          assertEquals(0, other.length(0));
          assertTrue(o.runtime().memory() >= 0);
        } catch (AssertionError e) {
          errors.add(e);
        }
      });
      o.cache().append(0, X, X);
      assertTrue(lines.get() > 0);
      assertEquals(List.of(), errors);
    }
  }

  /** A runtime that is closed while its sink calls it ends outside of the sink. */
  @Test
  void closeWhileTheSinkUsesTheRuntime() throws Exception {
    try (KvgPlan plan = KvgPlan.create(Support.SHAPE, "int8,window=64")) {
      for (int round = 0; round < 20; round++) {
        KvgRuntime runtime = KvgRuntime.create();
        KvgCache cache = runtime.newCache(plan);
        CountDownLatch inSink = new CountDownLatch(1);
        runtime.setLog((level, message) -> {
          inSink.countDown();
          try {
            while (true) {
              runtime.memory();
            }
          } catch (KvgException closed) {
            // as it should be
          }
        });
        Thread closer = new Thread(() -> {
          try {
            inSink.await();
          } catch (InterruptedException e) {
            return;
          }
          runtime.close();
        });
        closer.start();
        cache.append(0, X, X);
        cache.close();
        closer.join(TimeUnit.SECONDS.toMillis(20));
        assertFalse(closer.isAlive(), "close waits for ever");
      }
    }
  }

  @Test
  void sinksAreGarbageAfterwards() throws InterruptedException {
    try (KvgRuntime runtime = KvgRuntime.create()) {
      List<WeakReference<LogSink>> sinks = new ArrayList<>();
      for (int i = 0; i < 3; i++) {
        sinks.add(setSink(runtime, new byte[i]));
      }
      runtime.setLog(null);
      long end = System.nanoTime() + 20_000_000_000L;
      for (WeakReference<LogSink> sink : sinks) {
        while (sink.get() != null) {
          System.gc();
          Thread.sleep(1);
          assertTrue(System.nanoTime() < end, "a sink is kept");
        }
      }
    }
  }

  private static WeakReference<LogSink> setSink(KvgRuntime runtime, byte[] captured) {
    LogSink sink = (level, message) -> captured[0] = 1;
    runtime.setLog(sink);
    return new WeakReference<>(sink);
  }
}
