// Memory segments, which Java has from 22 on: test.sh compiles and runs this with such a Java against the jar that Java 17 built.
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import org.kvgear.DType;
import org.kvgear.KvgCache;
import org.kvgear.KvgException;
import org.kvgear.KvgPlan;
import org.kvgear.KvgRuntime;
import org.kvgear.Segments;
import org.kvgear.Shape;
import org.kvgear.Side;
import org.kvgear.Status;
import org.kvgear.Tensor;

public final class SegmentsCheck {
  private static final int ROW = 64;

  private static void check(boolean holds, String what) {
    if (!holds) {
      throw new AssertionError(what);
    }
  }

  private static void fails(Status status, Runnable call, String words) {
    try {
      call.run();
    } catch (KvgException e) {
      check(e.status() == status && e.getMessage().contains(words), e.getMessage());
      return;
    }
    throw new AssertionError("no failure: " + words);
  }

  public static void main(String[] arguments) throws InterruptedException {
    try (KvgRuntime runtime = KvgRuntime.create();
        KvgPlan plan = KvgPlan.create(new Shape(1, 1, 1, ROW), "fp16");
        KvgCache cache = runtime.newCache(plan);
        Arena arena = Arena.ofConfined();
        Arena shared = Arena.ofShared()) {
      MemorySegment k = arena.allocate(ValueLayout.JAVA_FLOAT, 3 * ROW);
      for (int i = 0; i < 3 * ROW; i++) {
        k.setAtIndex(ValueLayout.JAVA_FLOAT, i, i / 64f);
      }
      Tensor tokens = Segments.tensor(DType.F32, k);
      check(tokens.length() == 3 * ROW, "length");
      k.setAtIndex(ValueLayout.JAVA_FLOAT, 5, 0.125f); // after the tensor was made
      cache.append(0, tokens, tokens);

      MemorySegment back = shared.allocate(ValueLayout.JAVA_FLOAT, 2 * ROW);
      cache.read(0, Side.K, 0, 1, Segments.tensor(DType.F32, back.asSlice(4L * ROW, 4L * ROW)));
      check(back.getAtIndex(ValueLayout.JAVA_FLOAT, ROW - 1) == 0, "before the slice");
      check(back.getAtIndex(ValueLayout.JAVA_FLOAT, ROW + 5) == 0.125f, "the library reads and writes the memory itself");
      cache.attend(0, Segments.tensor(DType.F32, back.asSlice(0, 4L * ROW)), Segments.tensor(DType.F32, back.asSlice(4L * ROW)));
      check(back.getAtIndex(ValueLayout.JAVA_FLOAT, ROW + 5) != 0.125f, "attend writes");

      fails(Status.INVALID, () -> Segments.tensor(DType.F32, MemorySegment.ofArray(new float[ROW])), "heap");
      fails(Status.INVALID, () -> cache.read(0, Side.K, 0, 1, Segments.tensor(DType.F32, back.asReadOnly())), "read-only");
      Throwable[] elsewhere = new Throwable[1];
      Thread thread = new Thread(() -> {
        try {
          fails(Status.STATE, () -> cache.append(0, tokens, tokens), "another thread");
          cache.attend(0, Segments.tensor(DType.F32, back.asSlice(0, 4L * ROW)), Segments.tensor(DType.F32, back.asSlice(4L * ROW)));
        } catch (Throwable e) {
          elsewhere[0] = e;
        }
      });
      thread.start();
      thread.join();
      check(elsewhere[0] == null, "elsewhere: " + elsewhere[0]);
      Arena closed = Arena.ofShared();
      Tensor gone = Segments.tensor(DType.F32, closed.allocate(ValueLayout.JAVA_FLOAT, ROW));
      closed.close();
      fails(Status.STATE, () -> cache.append(0, gone, gone), "closed");
      check(cache.length(0) == 3, "tokens");
    }
    System.out.println("segments passed");
  }
}
