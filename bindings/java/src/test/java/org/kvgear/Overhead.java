package org.kvgear;

import java.nio.FloatBuffer;
import java.util.function.LongSupplier;

/** What a call costs, as bindings/bench/attend.c says it for C: the least of many rounds. bench.sh compares the two. */
final class Overhead {
  private static final int TOKENS = 1024;
  private static final int Q_HEADS = 32;
  private static final int KV_HEADS = 8;
  private static final int DIM = 128;

  private static Tensor random(int n, int seed) {
    float[] x = new float[n];
    int s = seed;
    for (int i = 0; i < n; i++) {
      s = s * 1664525 + 1013904223;
      x[i] = (s >>> 8) / (float) (1 << 23) - 1;
    }
    return Tensor.copyOf(x);
  }

  private static double time(int calls, LongSupplier call) {
    long start = System.nanoTime();
    for (int i = 0; i < calls; i++) {
      if (call.getAsLong() != TOKENS) {
        throw new AssertionError();
      }
    }
    return (System.nanoTime() - start) / (double) calls;
  }

  public static void main(String[] arguments) {
    double seconds = arguments.length > 0 ? Double.parseDouble(arguments[0]) : 2;
    try (KvgRuntime runtime = KvgRuntime.create();
        KvgPlan plan = KvgPlan.create(new Shape(1, Q_HEADS, KV_HEADS, DIM), "gear-2");
        KvgCache cache = runtime.newCache(plan)) {
      cache.append(0, random(TOKENS * KV_HEADS * DIM, 1), random(TOKENS * KV_HEADS * DIM, 2));
      Tensor q = random(Q_HEADS * DIM, 3);
      FloatBuffer out = Support.floats(Q_HEADS * DIM);
      double attend = Double.MAX_VALUE;
      double length = Double.MAX_VALUE;
      long end = System.nanoTime() + (long) (seconds * 1e9);
      while (System.nanoTime() < end) {
        attend = Math.min(attend, time(10, () -> {
          cache.attend(0, q, Tensor.f32(out)); // makes a tensor each time, as a program would
          return TOKENS;
        }));
        length = Math.min(length, time(1000, () -> cache.length(0)));
      }
      System.out.printf("attend %.1f%nlength %.1f%n", attend, length);
    }
  }
}
