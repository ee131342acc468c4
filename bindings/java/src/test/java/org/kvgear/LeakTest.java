package org.kvgear;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.nio.file.Path;
import java.util.Optional;
import org.junit.jupiter.api.Test;

/**
 * Memory of the process after many objects were made and closed: KVGEAR_LEAK_CYCLES caches, a million where that is not set. pom.xml gives
 * Java a heap of one size, touched at the start.
 */
class LeakTest {
  private static final int CYCLES = Integer.parseInt(System.getenv().getOrDefault("KVGEAR_LEAK_CYCLES", "1000000"));
  private static final long ROOM = 8 << 20; // for Java's own
  private static final int ROUNDS = 4;

  @Test
  void manyCaches() {
    try (KvgRuntime runtime = KvgRuntime.create(); KvgPlan plan = KvgPlan.create(Support.SHAPE, "gear-2")) {
      Tensor row = Tensor.copyOf(Support.fill(Support.ROW, 1));
      cycles(CYCLES / 2, runtime, plan, row);
      assertSteady(() -> cycles(CYCLES, runtime, plan, row));
      assertEquals(0, runtime.memory());
    }
  }

  private static void cycles(int n, KvgRuntime runtime, KvgPlan plan, Tensor row) {
    for (int i = 0; i < n; i++) {
      try (KvgCache cache = runtime.newCache(plan)) {
        if (i % 50 == 0) { // the whole way of a cache now and then, failures included
          cache.append(0, row, row);
          cache.fork().close();
          try {
            cache.truncate(0, 5);
          } catch (KvgException e) {
            assertEquals(Status.INVALID, e.status());
          }
        }
        if (i % 500 == 0) {
          streams(runtime, plan, cache);
        }
      }
    }
  }

  private static void streams(KvgRuntime runtime, KvgPlan plan, KvgCache cache) {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    cache.save(out, SaveOptions.DEFAULT.withFingerprint(new byte[] {1}));
    ByteArrayInputStream in = new ByteArrayInputStream(out.toByteArray());
    runtime.loadCache(plan, in, LoadOptions.DEFAULT.withFingerprint(new byte[] {1})).close();
    try {
      runtime.loadCache(plan, InputStream.nullInputStream(), LoadOptions.DEFAULT);
    } catch (KvgException e) {
      assertEquals(Status.CORRUPT, e.status());
    }
    try (KvgPrefix store = runtime.newPrefix(0)) {
      assertEquals(Optional.empty(), store.find(plan, new int[] {1, 2}));
    }
    assertEquals(cache.held(0), cache.positions(0, 0).length);
  }

  @Test
  void runtimesPlansAndSinks() {
    others(CYCLES / 50);
    assertSteady(() -> others(CYCLES / 10));
  }

  private static void others(int n) {
    for (int i = 0; i < n; i++) {
      try (KvgRuntime runtime = KvgRuntime.create(); KvgPlan plan = KvgPlan.create(Support.SHAPE, "gear-2;1:int8")) {
        runtime.setLog((level, message) -> {});
        runtime.setLog((level, message) -> {});
        assertEquals(2, plan.shape().layers());
      }
    }
  }

  /** Java itself grows now and then, when it compiles; a leak makes the process grow in every one of these rounds. */
  private static void assertSteady(Runnable round) {
    String words = "";
    for (int i = 0; i < ROUNDS; i++) {
      long resident = resident();
      long heap = heap();
      round.run();
      long heapGrown = heap() - heap;
      long grown = resident() - resident;
      if (heapGrown < ROOM && grown < ROOM) {
        return;
      }
      words += " " + grown + " (Java's heap " + heapGrown + ")";
    }
    throw new AssertionError("the process has grown in every round, by bytes:" + words);
  }

  private static long heap() {
    System.gc();
    Runtime runtime = Runtime.getRuntime();
    return runtime.totalMemory() - runtime.freeMemory();
  }

  private static long resident() {
    for (String line : Support.lines(Path.of("/proc/self/status"))) {
      if (line.startsWith("VmRSS:")) {
        return Long.parseLong(line.replaceAll("[^0-9]", "")) * 1024;
      }
    }
    throw new AssertionError("no VmRSS");
  }
}
