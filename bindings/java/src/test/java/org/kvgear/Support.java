package org.kvgear;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.ShortBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.junit.jupiter.api.function.Executable;

/** What several tests need: inputs, buffers, attention in double precision. */
public final class Support {
  static final Path REPOSITORY = Path.of("../..").toAbsolutePath().normalize();
  static final Shape SHAPE = new Shape(2, 4, 2, 32);
  static final int ROW = 2 * 32; // of K or V
  static final int Q_ROW = 4 * 32;

  /** Inputs that fp16 holds exactly: multiples of 1/64 in [-2, 2), from the position alone. */
  static float[] fill(int n, int seed) {
    float[] values = new float[n];
    for (int i = 0; i < n; i++) {
      int x = (i + 1) * 0x9E3779B1 ^ seed * 40503;
      x ^= x >>> 15;
      x *= 0x85EBCA77;
      x ^= x >>> 13;
      values[i] = ((x & 255) - 128) / 64f;
    }
    return values;
  }

  static ByteBuffer bytes(int n) {
    return ByteBuffer.allocateDirect(n).order(ByteOrder.nativeOrder());
  }

  static FloatBuffer floats(int n) {
    return bytes(n * Float.BYTES).asFloatBuffer();
  }

  static ShortBuffer shorts(int n) {
    return bytes(n * Short.BYTES).asShortBuffer();
  }

  static float[] copy(FloatBuffer buffer) {
    float[] values = new float[buffer.remaining()];
    buffer.get(buffer.position(), values);
    return values;
  }

  static ShortBuffer halves(float... values) {
    ShortBuffer buffer = shorts(values.length);
    for (int i = 0; i < values.length; i++) {
      buffer.put(i, f16(values[i]));
    }
    return buffer;
  }

  /** binary16 of a value that it holds exactly as a normal number, or of zero. */
  static short f16(float x) {
    int bits = Float.floatToIntBits(x);
    return (short) (x == 0 ? 0 : bits >> 16 & 0x8000 | ((bits >> 23 & 0xFF) - 112) << 10 | bits >> 13 & 0x3FF);
  }

  static float f32(short half) {
    int exponent = half >> 10 & 31;
    int fraction = half & 0x3FF;
    float size = exponent == 0 ? fraction / (float) (1 << 24) : Float.intBitsToFloat(exponent + 112 << 23 | fraction << 13);
    return half < 0 ? -size : size;
  }

  /** Attention in double precision: causal, the newest queries. */
  static double[] attention(float[] k, float[] v, float[] q, Shape s, int queries) {
    int d = s.headDim();
    int tokens = k.length / (s.kvHeads() * d);
    double[] out = new double[q.length];
    for (int i = 0; i < queries; i++) {
      for (int h = 0; h < s.qHeads(); h++) {
        int g = h / (s.qHeads() / s.kvHeads());
        int at = (i * s.qHeads() + h) * d;
        double[] weights = new double[tokens - queries + i + 1];
        double sum = 0;
        for (int t = 0; t < weights.length; t++) {
          double dot = 0;
          for (int j = 0; j < d; j++) {
            dot += (double) q[at + j] * k[(t * s.kvHeads() + g) * d + j];
          }
          weights[t] = Math.exp(dot / Math.sqrt(d));
          sum += weights[t];
        }
        for (int t = 0; t < weights.length; t++) {
          for (int j = 0; j < d; j++) {
            out[at + j] += weights[t] / sum * v[(t * s.kvHeads() + g) * d + j];
          }
        }
      }
    }
    return out;
  }

  /** A cache with what it needs. */
  record Opened(KvgRuntime runtime, KvgPlan plan, KvgCache cache) implements AutoCloseable {
    @Override
    public void close() {
      cache.close();
      plan.close();
      runtime.close();
    }
  }

  static Opened open(RuntimeOptions options, String recipes) {
    KvgRuntime runtime = KvgRuntime.create(options);
    KvgPlan plan = KvgPlan.create(SHAPE, recipes);
    return new Opened(runtime, plan, runtime.newCache(plan));
  }

  static KvgException assertFails(Status status, String words, Executable call) {
    KvgException e = assertThrows(KvgException.class, call);
    assertEquals(status, e.status(), e.getMessage());
    assertEquals(status.code(), e.code());
    assertTrue(e.detail().contains(words) && e.detail().length() >= 10, e.getMessage());
    assertEquals(e.operation() + ": " + e.detail(), e.getMessage());
    return e;
  }

  /** Runs all at once, each on a thread of its own, and throws what any of them throws. */
  static void together(List<Callable<Void>> work) throws Exception {
    ExecutorService threads = Executors.newFixedThreadPool(work.size());
    try {
      List<Future<Void>> all = new ArrayList<>();
      for (Callable<Void> w : work) {
        all.add(threads.submit(w));
      }
      for (Future<Void> f : all) {
        try {
          f.get(120, TimeUnit.SECONDS);
        } catch (ExecutionException e) {
          throw new AssertionError(e.getCause());
        } catch (TimeoutException e) {
          throw new AssertionError("a thread waits for ever", e);
        }
      }
    } finally {
      threads.shutdownNow();
    }
  }

  static List<String> lines(Path path) {
    try {
      return Files.readAllLines(path);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private Support() {}
}
