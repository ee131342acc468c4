package org.kvgear;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.kvgear.Support.Q_ROW;
import static org.kvgear.Support.ROW;
import static org.kvgear.Support.SHAPE;
import static org.kvgear.Support.assertFails;
import static org.kvgear.Support.copy;
import static org.kvgear.Support.fill;
import static org.kvgear.Support.floats;
import static org.kvgear.Support.open;

import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.List;
import java.util.stream.LongStream;
import org.junit.jupiter.api.Test;

/** Layers that select tokens, and batches of caches. */
class SelectionTest {
  private static Tensor rows(int n, int seed) {
    return Tensor.copyOf(fill(n * ROW, seed));
  }

  private static void observed(KvgCache cache, int layer, int seed) {
    cache.attendObserve(layer, Tensor.copyOf(fill(Q_ROW, seed)), Tensor.f32(floats(Q_ROW)), AttendOptions.DEFAULT);
  }

  @Test
  void policies() {
    List<Recipe> policies = Recipe.policies();
    assertTrue(policies.size() >= 8 && policies.stream().anyMatch(p -> p.name().equals("streaming-llm") && p.summary().length() > 10));
    for (Recipe p : policies) {
      assertEquals(p.name(), Recipe.canonical(p.name()));
    }
  }

  /** Sinks and a window: all of it is known beforehand. */
  @Test
  void streaming() {
    try (var o = open(RuntimeOptions.DEFAULT, "streaming-llm,budget=20")) {
      KvgCache cache = o.cache();
      cache.append(1, rows(50, 1), rows(50, 1));
      assertEquals(50, cache.held(1));
      for (int token = 50; token < 60; token++) {
        cache.append(1, rows(1, token), rows(1, token));
        observed(cache, 1, 3);
      }
      long[] want = LongStream.concat(LongStream.range(0, 4), LongStream.range(43, 60)).toArray();
      for (int head = 0; head < SHAPE.kvHeads(); head++) {
        assertArrayEquals(want, cache.positions(1, head));
      }
      byte[] sixteen = new byte[21];
      Arrays.fill(sixteen, (byte) 16);
      assertArrayEquals(sixteen, cache.bits(1, Side.V));
      Stats stats = cache.stats(1, Side.BOTH);
      assertEquals(21, stats.tokens());
      assertEquals(39, stats.tokensEvicted());
      cache.select(KvgCache.ALL_LAYERS);
      assertEquals(20, cache.held(1));
      assertEquals(60, cache.length(1));
      assertEquals(0, cache.positions(0, 0).length);
      assertFails(Status.INVALID, "kv_head is 2", () -> cache.positions(1, 2));
      assertFails(Status.INVALID, "BOTH", () -> cache.bits(1, Side.BOTH));
      assertFails(Status.INVALID, "layer is 2", () -> cache.select(2));
      assertFails(Status.INVALID, "layer is 2", () -> cache.held(2));
      assertFails(Status.INVALID, "layer is 2", () -> cache.probePositions(2));
    }
  }

  /** Scores come from the caller, from probes, or with attention. */
  @Test
  void scores() {
    try (var o = open(RuntimeOptions.DEFAULT, "h2o,budget=10")) {
      KvgCache cache = o.cache();
      final int tokens = 40;
      cache.append(0, rows(tokens, 1), rows(tokens, 1));
      assertFails(Status.STATE, "needs scores", () -> cache.append(0, rows(1, 2), rows(1, 2)));
      float[] scores = new float[SHAPE.kvHeads() * tokens];
      for (int i = 0; i < scores.length; i++) {
        scores[i] = i % 7 == 3 ? 2 : 1;
      }
      assertFails(Status.INVALID, "scores_len is 79", () -> cache.observe(0, Arrays.copyOf(scores, 79), tokens));
      assertFails(Status.INVALID, "rows is 41", () -> cache.observe(0, scores, 41));
      assertFails(Status.INVALID, "scores is NULL", () -> cache.observe(0, null, tokens));
      cache.observe(0, scores, tokens);
      cache.append(0, rows(1, 2), rows(1, 2));
      long[] want = {3, 10, 17, 24, 31, 35, 36, 37, 38, 39, 40}; // those of score 2, and the newest
      assertArrayEquals(want, cache.positions(0, 0));

      // The scores of a probe are those of attention on everything: the same tokens stay.
      cache.append(1, rows(tokens, 1), rows(tokens, 1));
      long[] all = cache.probePositions(1);
      assertArrayEquals(LongStream.range(0, tokens).toArray(), all);
      Tensor q = Tensor.copyOf(fill(tokens * Q_ROW, 9));
      assertFails(Status.INVALID, "q_bytes", () -> cache.probe(1, Tensor.copyOf(fill(tokens * Q_ROW - 1, 9)), all, AttendOptions.DEFAULT));
      long[] falling = {7, 6};
      assertFails(Status.INVALID, "positions[1] is 6", () -> cache.probe(1, q, falling, AttendOptions.DEFAULT));
      try (KvgCache fork = cache.fork()) {
        cache.probe(1, q, all, AttendOptions.DEFAULT);
        fork.attendObserve(1, q, Tensor.f32(floats(tokens * Q_ROW)), AttendOptions.DEFAULT);
        cache.append(1, rows(1, 4), rows(1, 4));
        fork.append(1, rows(1, 4), rows(1, 4));
        for (int head = 0; head < SHAPE.kvHeads(); head++) {
          assertEquals(11, cache.positions(1, head).length);
          assertArrayEquals(fork.positions(1, head), cache.positions(1, head));
        }
      }
      assertFails(Status.STATE, "only pyramidinfer", () -> cache.nextTokens(1));
    }
  }

  /** A prompt that is pruned on its way through the layers: the caller says which tokens come. */
  @Test
  void prunedPrompt() {
    try (var o = open(RuntimeOptions.DEFAULT, "pyramidinfer,decay=0.5,least=0,recent=10")) {
      KvgCache cache = o.cache();
      final int tokens = 120;
      Tensor x = rows(tokens, 1);
      long[] positions = LongStream.range(0, tokens).toArray();
      float[] scores = new float[SHAPE.kvHeads() * tokens];
      for (int i = 0; i < scores.length; i++) {
        scores[i] = (float) (i % tokens) / tokens;
      }
      AppendOptions as = AppendOptions.DEFAULT;
      assertFails(Status.INVALID, "element type", () -> cache.appendAt(0, x, Tensor.f16(Support.shorts(tokens * ROW)), positions, as));
      assertFails(Status.INVALID, "k_bytes", () -> cache.appendAt(0, rows(1, 1), x, positions, as));
      cache.appendAt(0, x, x, positions, as);
      assertArrayEquals(positions, cache.nextTokens(0)); // behind the first layer all go on
      cache.appendAt(1, x, x, positions, as);
      assertFails(Status.STATE, "needs scores", () -> cache.nextTokens(1));
      cache.observe(1, scores, 11);
      long[] want = LongStream.concat(LongStream.range(0, 4), LongStream.range(32, tokens)).toArray();
      assertArrayEquals(want, cache.nextTokens(1)); // the sinks, the highest scores, the newest
      cache.clear();
      cache.appendAt(0, x, x, new long[] {5, 9}, as.withStrides(new Strides(2 * ROW, 32, 1), new Strides(ROW, 32, 1)));
      assertEquals(10, cache.length(0)); // gaps count as evicted
      assertArrayEquals(new long[] {5, 9}, cache.positions(0, 1));
    }
  }

  @Test
  void layersThatKeepAll() {
    try (var o = open(RuntimeOptions.DEFAULT, "int8")) {
      KvgCache cache = o.cache();
      cache.append(0, rows(300, 1), rows(300, 1));
      cache.select(KvgCache.ALL_LAYERS);
      long[] all = LongStream.range(0, 300).toArray();
      assertArrayEquals(all, cache.positions(0, 0));
      assertArrayEquals(all, cache.nextTokens(0));
      byte[] bits = cache.bits(0, Side.K);
      assertEquals(300, bits.length);
      assertEquals(8, bits[0]);
      assertEquals(16, bits[299]);
      assertEquals(0, cache.probePositions(0).length);
      observed(cache, 0, 3);
      assertFails(Status.STATE, "keeps all tokens", () -> cache.observe(0, new float[600], 1));
      assertFails(
          Status.STATE, "keeps all tokens", () -> cache.appendAt(0, rows(300, 1), rows(300, 1), all, AppendOptions.DEFAULT));
    }
  }

  /** A batch gives each cache the bits of a call of its own, and a cache may come twice. */
  @Test
  @SuppressWarnings("try") // closed by hand, too
  void batch() {
    try (var o = open(RuntimeOptions.DEFAULT.withThreads(1), "gear-2");
        KvgPlan plain = KvgPlan.create(SHAPE, "fp16");
        KvgCache second = o.runtime().newCache(plain);
        KvgCache third = o.runtime().newCache(o.plan())) {
      List<KvgCache> caches = List.of(o.cache(), second, third, o.cache());
      int[] tokens = {300, 1, 77};
      for (int i = 0; i < tokens.length; i++) {
        caches.get(i).append(0, rows(tokens[i], i), rows(tokens[i], 10 + i));
      }
      float[] q = fill(caches.size() * Q_ROW, 3);
      Tensor queries = Tensor.copyOf(q);
      FloatBuffer out = floats(q.length);
      KvgCache.attendBatch(caches, 0, queries, Tensor.f32(out), AttendOptions.DEFAULT);
      float[] got = copy(out);
      for (int i = 0; i < caches.size(); i++) {
        FloatBuffer alone = floats(Q_ROW);
        caches.get(i).attend(0, Tensor.copyOf(Arrays.copyOfRange(q, i * Q_ROW, (i + 1) * Q_ROW)), Tensor.f32(alone));
        assertArrayEquals(copy(alone), Arrays.copyOfRange(got, i * Q_ROW, (i + 1) * Q_ROW), "cache " + i);
      }
      KvgCache.attendBatch(List.of(), 0, Tensor.copyOf(), Tensor.f32(floats(0)), AttendOptions.DEFAULT);
      Tensor result = Tensor.f32(out);
      assertFails(
          Status.INVALID, "caches * q_heads", () -> KvgCache.attendBatch(caches, 0, Tensor.copyOf(1, 2), result, AttendOptions.DEFAULT));
      assertFails(Status.INVALID, "layer", () -> KvgCache.attendBatch(caches, 2, queries, result, AttendOptions.DEFAULT));
      assertFails(Status.INVALID, "", () -> KvgCache.attendBatch(caches, 1, queries, result, AttendOptions.DEFAULT));
      assertFails(Status.INVALID, "out_bytes", () -> KvgCache.attendBatch(caches, 0, queries, Tensor.f32(floats(Q_ROW)), AttendOptions.DEFAULT));
      assertArrayEquals(got, copy(out)); // a refused call writes nothing
      third.close();
      assertFails(Status.STATE, "closed", () -> KvgCache.attendBatch(caches, 0, queries, result, AttendOptions.DEFAULT));
      o.cache().append(0, rows(1, 1), rows(1, 1)); // no lock is left
    }
  }

  /** A batch of appends leaves each cache as a call of its own would, and all of them as they were where it is refused. */
  @Test
  @SuppressWarnings("try") // closed by hand, too
  void batchOfAppends() {
    try (var o = open(RuntimeOptions.DEFAULT, "gear-2");
        KvgPlan other = KvgPlan.create(SHAPE, "int4");
        KvgCache second = o.runtime().newCache(other);
        KvgCache alone = o.runtime().newCache(o.plan());
        KvgCache secondAlone = o.runtime().newCache(other)) {
      List<KvgCache> caches = List.of(o.cache(), second);
      List<KvgCache> apart = List.of(alone, secondAlone);
      for (int count : new int[] {200, 1}) {
        float[] k = fill(2 * count * ROW, 1);
        float[] v = fill(2 * count * ROW, 2);
        KvgCache.appendBatch(caches, 1, Tensor.copyOf(k), Tensor.copyOf(v));
        for (int i = 0; i < 2; i++) {
          int begin = i * count * ROW;
          Tensor keys = Tensor.copyOf(Arrays.copyOfRange(k, begin, begin + count * ROW));
          apart.get(i).append(1, keys, Tensor.copyOf(Arrays.copyOfRange(v, begin, begin + count * ROW)));
        }
      }
      Runnable same =
          () -> {
            for (int i = 0; i < 2; i++) {
              assertEquals(201, caches.get(i).length(1));
              FloatBuffer got = floats(201 * ROW);
              FloatBuffer want = floats(201 * ROW);
              caches.get(i).read(1, Side.K, 0, 201, Tensor.f32(got));
              apart.get(i).read(1, Side.K, 0, 201, Tensor.f32(want));
              assertArrayEquals(copy(want), copy(got), "cache " + i);
            }
          };
      same.run();
      KvgCache.appendBatch(List.of(), 0, Tensor.copyOf(), Tensor.copyOf());
      Tensor x = rows(2, 5);
      assertFails(Status.INVALID, "caches * kv_heads", () -> KvgCache.appendBatch(caches, 1, rows(1, 5), rows(1, 5)));
      assertFails(Status.INVALID, "layer", () -> KvgCache.appendBatch(caches, 2, x, x));
      assertFails(Status.INVALID, "", () -> KvgCache.appendBatch(List.of(second, second), 1, x, x));
      float[] bad = fill(2 * ROW, 5);
      bad[bad.length - 1] = Float.NaN; // of the second cache: the first gets nothing either
      assertFails(Status.NONFINITE, "", () -> KvgCache.appendBatch(caches, 1, Tensor.copyOf(bad), x));
      same.run();
      second.close();
      assertFails(Status.STATE, "closed", () -> KvgCache.appendBatch(caches, 1, x, x));
      o.cache().append(0, rows(1, 1), rows(1, 1)); // no lock is left
    }
  }
}
