// The program of README.md, as a module: test.sh builds it against the jar alone and runs it.
package example;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import org.kvgear.KvgCache;
import org.kvgear.KvgException;
import org.kvgear.KvgPlan;
import org.kvgear.KvgRuntime;
import org.kvgear.RuntimeOptions;
import org.kvgear.Shape;
import org.kvgear.Side;
import org.kvgear.Stats;
import org.kvgear.Status;
import org.kvgear.Tensor;

public final class Main {
  private static FloatBuffer floats(int n) {
    return ByteBuffer.allocateDirect(4 * n).order(ByteOrder.nativeOrder()).asFloatBuffer();
  }

  public static void main(String[] arguments) {
    RuntimeOptions options = RuntimeOptions.DEFAULT.withThreads(1).withMemoryBudget(1L << 30);
    try (KvgRuntime runtime = KvgRuntime.create(options);
        KvgPlan plan = KvgPlan.create(new Shape(2, 8, 2, 64), "gear-2");
        KvgCache cache = runtime.newCache(plan)) {
      FloatBuffer k = floats(300 * 2 * 64); // 300 tokens
      FloatBuffer v = floats(300 * 2 * 64);
      for (int i = 0; i < k.capacity(); i++) {
        k.put(i, i % 17 / 17f);
        v.put(i, i % 31 / 31f);
      }
      cache.append(0, Tensor.f32(k), Tensor.f32(v));
      FloatBuffer out = floats(8 * 64);
      cache.attend(0, Tensor.f32(floats(8 * 64)), Tensor.f32(out)); // one query
      if (!(out.get(0) > 0.4f && out.get(0) < 0.6f)) { // of zeros: the mean of the values
        throw new AssertionError("attention is " + out.get(0));
      }
      Stats stats = cache.stats(0, Side.BOTH);
      System.out.printf("%d tokens in %.2f bits an element%n", stats.tokens(), stats.bitsPerElement());
    }
    try {
      KvgPlan.create(new Shape(0, 0, 0, 0), "gear-2");
      throw new AssertionError("a plan without a shape");
    } catch (KvgException e) {
      if (e.status() != Status.INVALID) {
        throw e;
      }
    }
    System.out.println("module " + KvgCache.class.getModule());
  }
}
