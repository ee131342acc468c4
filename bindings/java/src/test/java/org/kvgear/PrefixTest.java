package org.kvgear;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.kvgear.Support.Q_ROW;
import static org.kvgear.Support.ROW;
import static org.kvgear.Support.SHAPE;
import static org.kvgear.Support.assertFails;
import static org.kvgear.Support.fill;
import static org.kvgear.Support.floats;
import static org.kvgear.Support.open;

import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.Callable;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Stores of caches by their tokens. */
@Timeout(60)
class PrefixTest {
  private static final int TOKENS = 300;

  private static int[] ids() {
    return IntStream.range(0, TOKENS).map(i -> i * 7 + 1).toArray();
  }

  private static Support.Opened filled() {
    Support.Opened o = open(RuntimeOptions.DEFAULT, "int8,window=64");
    for (int layer = 0; layer < SHAPE.layers(); layer++) {
      o.cache().append(layer, Tensor.copyOf(fill(TOKENS * ROW, 1)), Tensor.copyOf(fill(TOKENS * ROW, 2)));
    }
    return o;
  }

  @Test
  @SuppressWarnings("try") // closed by hand, too
  void foundAgain() {
    try (var o = filled(); KvgPrefix store = o.runtime().newPrefix(0); KvgPlan other = KvgPlan.create(SHAPE, "gear-2")) {
      store.insert(ids(), o.cache());
      int[] longer = Arrays.copyOf(ids(), TOKENS + 2);
      try (KvgPrefix.Match match = store.find(o.plan(), longer).orElseThrow()) {
        assertEquals(TOKENS, match.tokens());
        assertEquals(TOKENS, match.cache().length(0));
        FloatBuffer want = floats(Q_ROW);
        FloatBuffer got = floats(Q_ROW);
        Tensor q = Tensor.copyOf(fill(Q_ROW, 3));
        o.cache().attend(1, q, Tensor.f32(want));
        match.cache().attend(1, q, Tensor.f32(got));
        assertEquals(want, got);
      }
      int[] part = ids();
      part[200] = 0;
      try (KvgPrefix.Match match = store.find(o.plan(), part).orElseThrow()) {
        assertTrue(match.tokens() > 0 && match.tokens() <= 200, match.toString());
        assertEquals(match.tokens(), match.cache().length(1));
        Tensor row = Tensor.copyOf(fill(ROW, 1));
        match.cache().append(0, row, row); // it is a cache like any other
      }
      assertEquals(Optional.empty(), store.find(o.plan(), new int[] {99}));
      assertEquals(Optional.empty(), store.find(o.plan(), new int[0]));
      assertEquals(Optional.empty(), store.find(other, ids()));
      PrefixStats stats = store.stats();
      assertEquals(new PrefixStats(1, stats.bytes(), 2, 3, 0), stats);
      assertTrue(stats.bytes() > 0);
      assertFails(Status.INVALID, "", () -> store.insert(new int[] {1}, o.cache()));
      store.clear();
      assertEquals(0, store.stats().entries());
      try (KvgPrefix small = o.runtime().newPrefix(10)) {
        assertFails(Status.LIMIT, "", () -> small.insert(ids(), o.cache()));
      }
      store.close();
      store.close();
      assertFails(Status.STATE, "closed", () -> store.insert(ids(), o.cache()));
      assertFails(Status.STATE, "closed", () -> store.find(o.plan(), ids()));
      assertFails(Status.STATE, "closed", store::clear);
      assertFails(Status.STATE, "closed", store::stats);
    }
  }

  /** Many threads share a store, which is closed in between; nothing is left of it. */
  @Test
  void manyThreads() throws Exception {
    try (var o = filled()) {
      long before = o.runtime().memory();
      KvgPrefix store = o.runtime().newPrefix(1 << 20);
      List<Callable<Void>> work = new ArrayList<>();
      for (int i = 0; i < 8; i++) {
        int[] own = ids();
        own[TOKENS - 1] = -i; // ids are unsigned
        work.add(() -> {
          while (true) {
            try {
              store.insert(own, o.cache());
              try (KvgPrefix.Match match = store.find(o.plan(), own).orElseThrow()) {
                assertTrue(match.tokens() >= 64);
              }
            } catch (KvgException e) {
              assertEquals(Status.STATE, e.status(), e.getMessage());
              return null;
            }
          }
        });
      }
      work.add(() -> {
        Thread.sleep(50);
        store.close();
        return null;
      });
      Support.together(work);
      assertEquals(before, o.runtime().memory());
    }
  }
}
