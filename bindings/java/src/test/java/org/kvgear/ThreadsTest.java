package org.kvgear;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.kvgear.Support.Q_ROW;
import static org.kvgear.Support.ROW;
import static org.kvgear.Support.SHAPE;
import static org.kvgear.Support.copy;
import static org.kvgear.Support.fill;
import static org.kvgear.Support.floats;
import static org.kvgear.Support.open;
import static org.kvgear.Support.together;

import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;
import org.kvgear.internal.Handle;

class ThreadsTest {
  private static Tensor part(float[] x, int step, int each) {
    return Tensor.copyOf(Arrays.copyOfRange(x, step * each * ROW, (step + 1) * each * ROW));
  }

  /** Batches over the same caches in different orders, beside writers of each: nobody waits for ever. */
  @Test
  void batchesAndWriters() throws Exception {
    try (var o = open(RuntimeOptions.DEFAULT.withThreads(1), "int8"); KvgCache other = o.runtime().newCache(o.plan())) {
      KvgCache first = o.cache();
      Tensor x = Tensor.copyOf(fill(64 * ROW, 1));
      first.append(0, x, x);
      other.append(0, x, x);
      List<Callable<Void>> work = new ArrayList<>();
      for (List<KvgCache> order : List.of(List.of(first, other), List.of(other, first), List.of(other, first, other))) {
        Tensor q = Tensor.copyOf(fill(order.size() * Q_ROW, 2));
        Tensor out = Tensor.f32(floats(order.size() * Q_ROW));
        work.add(() -> {
          for (int i = 0; i < 2000; i++) {
            KvgCache.attendBatch(order, 0, q, out, AttendOptions.DEFAULT);
          }
          return null;
        });
      }
      for (KvgCache cache : List.of(first, other)) {
        work.add(() -> {
          for (int i = 0; i < 2000; i++) {
            cache.append(0, x, x);
            cache.truncate(0, 64);
          }
          return null;
        });
      }
      together(work);
    }
  }

  /** Readers see one of the states that the writer makes, never something between two. */
  @Test
  void readersAndOneWriter() throws Exception {
    final int steps = 40;
    final int each = 8;
    final int readers = 6;
    try (var o = open(RuntimeOptions.DEFAULT.withThreads(1), "gear-4,block=64,segment=64,window=64")) {
      float[] k = fill((steps + 1) * each * ROW, 1);
      float[] v = fill((steps + 1) * each * ROW, 2);
      Tensor q = Tensor.copyOf(fill(Q_ROW, 3)); // shared by all
      Set<List<Float>> states = new HashSet<>();
      try (KvgCache alone = o.runtime().newCache(o.plan())) {
        for (int step = 0; step <= steps; step++) {
          alone.append(0, part(k, step, each), part(v, step, each));
          states.add(attend(alone, q));
        }
      }
      assertEquals(steps + 1, states.size());

      KvgCache cache = o.cache();
      cache.append(0, part(k, 0, each), part(v, 0, each));
      AtomicBoolean done = new AtomicBoolean();
      AtomicInteger seen = new AtomicInteger();
      List<Callable<Void>> work = new ArrayList<>();
      for (int r = 0; r < readers; r++) {
        work.add(() -> {
          boolean last;
          do {
            last = done.get();
            assertTrue(states.contains(attend(cache, q)), "a state that the cache never had");
            long n = cache.length(0);
            assertEquals(0, n % each);
            cache.read(0, Side.K, n - 1, 1, Tensor.f16(Support.shorts(ROW)));
            assertTrue(cache.stats(0, Side.BOTH).tokens() >= n);
            seen.incrementAndGet();
          } while (!last);
          return null;
        });
      }
      work.add(() -> {
        try {
          for (int step = 1; step <= steps; step++) {
            cache.append(0, part(k, step, each), part(v, step, each));
          }
        } finally {
          done.set(true);
        }
        return null;
      });
      together(work);
      assertTrue(seen.get() >= readers);
      assertEquals((steps + 1) * each, cache.length(0));
    }
  }

  private static List<Float> attend(KvgCache cache, Tensor q) {
    FloatBuffer out = floats(Q_ROW);
    cache.attend(0, q, Tensor.f32(out));
    return List.of(out.get(0), out.get(1), out.get(2), out.get(3));
  }

  /** Forks that share segments are used from different threads, and answer as a lone cache with the same tokens. */
  @Test
  void forksOnDifferentThreads() throws Exception {
    try (var o = open(RuntimeOptions.DEFAULT.withThreads(1), "gear-2")) {
      Tensor k = Tensor.copyOf(fill(200 * ROW, 1));
      Tensor v = Tensor.copyOf(fill(200 * ROW, 2));
      o.cache().append(0, k, v);
      List<Callable<Void>> work = new ArrayList<>();
      for (int f = 0; f < 8; f++) {
        KvgCache fork = o.cache().fork();
        Tensor own = Tensor.copyOf(fill(150 * ROW, 10 + f));
        work.add(() -> {
          Tensor q = Tensor.copyOf(fill(Q_ROW, 3));
          FloatBuffer got = floats(Q_ROW);
          FloatBuffer want = floats(Q_ROW);
          try (fork; KvgCache alone = o.runtime().newCache(o.plan())) {
            fork.append(0, own, own);
            fork.attend(0, q, Tensor.f32(got));
            alone.append(0, k, v);
            alone.append(0, own, own);
            alone.attend(0, q, Tensor.f32(want));
          }
          assertArrayEquals(copy(want), copy(got));
          return null;
        });
      }
      o.cache().clear(); // the forks keep what they share
      together(work);
    }
  }

  /** Each call either succeeds or says that the cache is closed; memory is given back at the end. */
  @Test
  void closeDuringUse() throws Exception {
    try (var o = open(RuntimeOptions.DEFAULT, "int8")) {
      Tensor x = Tensor.copyOf(fill(64 * ROW, 1));
      Tensor q = Tensor.copyOf(fill(Q_ROW, 2));
      long before = o.runtime().memory();
      for (int round = 0; round < 30; round++) {
        KvgCache cache = o.runtime().newCache(o.plan());
        cache.append(0, x, x);
        CountDownLatch start = new CountDownLatch(1);
        List<Callable<Void>> work = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
          Tensor out = Tensor.f32(floats(Q_ROW));
          work.add(untilClosed(start, () -> cache.attend(0, q, out)));
        }
        work.add(untilClosed(start, () -> {
          cache.append(1, x, x);
          cache.truncate(1, 0);
        })); // another layer: an empty one cannot be attended
        work.add(untilClosed(start, () -> cache.fork().close()));
        for (int i = 0; i < 2; i++) {
          work.add(() -> {
            start.countDown();
            Thread.sleep(2);
            cache.close();
            return null;
          });
        }
        together(work);
      }
      assertEquals(before, o.runtime().memory());
    }
  }

  private static Callable<Void> untilClosed(CountDownLatch start, Runnable call) {
    return () -> {
      start.await();
      KvgException e =
          assertThrows(KvgException.class, () -> {
            while (true) {
              call.run();
            }
          });
      assertEquals(Status.STATE, e.status(), e.getMessage());
      assertTrue(e.detail().endsWith("is closed"), e.getMessage());
      return null;
    };
  }

  /** Closing runtime and plan during calls that need them. */
  @Test
  void closeOfTheOthersDuringUse() throws Exception {
    for (int round = 0; round < 50; round++) {
      KvgRuntime runtime = KvgRuntime.create();
      KvgPlan plan = KvgPlan.create(SHAPE, "gear-2");
      CountDownLatch start = new CountDownLatch(1);
      List<Callable<Void>> work = new ArrayList<>();
      for (int i = 0; i < 4; i++) {
        work.add(untilClosed(start, () -> {
          runtime.newCache(plan).close();
          runtime.setLog((level, message) -> {});
          runtime.describe();
          plan.recipe(1);
        }));
      }
      work.add(() -> {
        start.countDown();
        plan.close();
        runtime.close();
        return null;
      });
      together(work);
    }
  }

  /** The detail of a failure is that of the same call, also when many threads fail at once. */
  @Test
  void detailsDoNotMix() throws Exception {
    try (KvgPlan plan = KvgPlan.create(SHAPE, "fp16")) {
      List<Callable<Void>> work = new ArrayList<>();
      for (int t = 0; t < 64; t++) {
        int first = 1000 + 1000 * t;
        work.add(() -> {
          for (int layer = first; layer < first + 200; layer++) {
            int wrong = layer;
            Support.assertFails(Status.INVALID, String.valueOf(layer), () -> plan.recipe(wrong));
          }
          return null;
        });
      }
      together(work);
    }
  }

  @Test
  void handlesEndOnceAndNeverDuringACall() throws Exception {
    for (int round = 0; round < 1000; round++) {
      AtomicInteger inside = new AtomicInteger();
      AtomicInteger ends = new AtomicInteger();
      AtomicInteger bad = new AtomicInteger();
      Handle handle =
          new Handle("thing", 1, pointer -> {
            bad.addAndGet(inside.get());
            ends.incrementAndGet();
          });
      Thread[] threads = new Thread[3];
      for (int i = 0; i < threads.length; i++) {
        threads[i] = new Thread(() -> {
          try {
            while (true) {
              handle.enter("x");
              inside.incrementAndGet();
              inside.decrementAndGet();
              handle.leave();
            }
          } catch (KvgException e) {
            bad.addAndGet(e.status() == Status.STATE ? 0 : 1000);
          }
        });
        threads[i].start();
      }
      Thread closer = new Thread(handle);
      closer.start();
      handle.run();
      closer.join();
      for (Thread t : threads) {
        t.join();
      }
      assertEquals(1, ends.get());
      assertEquals(0, bad.get());
    }
  }
}
