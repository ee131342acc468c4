package org.kvgear;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;
import static org.kvgear.Support.Q_ROW;
import static org.kvgear.Support.ROW;
import static org.kvgear.Support.SHAPE;
import static org.kvgear.Support.assertFails;
import static org.kvgear.Support.copy;
import static org.kvgear.Support.f32;
import static org.kvgear.Support.fill;
import static org.kvgear.Support.floats;
import static org.kvgear.Support.halves;
import static org.kvgear.Support.open;
import static org.kvgear.Support.shorts;

import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.ShortBuffer;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.kvgear.internal.Raw;
import org.kvgear.internal.RawConstants;
import org.kvgear.internal.Struct;
import org.kvgear.internal.Structs;

/** The package used as it is meant to be, and wrongly. */
class CacheTest {
  @Test
  void tour() {
    try (var o = open(RuntimeOptions.DEFAULT.withThreads(1).withMemoryBudget(1 << 24), "fp16;1:gear-2")) {
      String line = o.runtime().describe();
      assertTrue(line.startsWith("cpu ") && line.contains("1 worker thread"), line);
      assertEquals(SHAPE, o.plan().shape());
      assertEquals("gear-2", o.plan().recipe(1));

      final int tokens = 300;
      float[] k = fill(tokens * ROW, 1);
      float[] v = fill(tokens * ROW, 2);
      KvgCache cache = o.cache();
      for (int layer = 0; layer < SHAPE.layers(); layer++) {
        cache.append(layer, Tensor.f16(halves(Arrays.copyOf(k, 100 * ROW))), Tensor.f16(halves(Arrays.copyOf(v, 100 * ROW))));
        FloatBuffer rest = floats(tokens * ROW).put(0, k).position(100 * ROW); // the position counts
        cache.append(layer, Tensor.f32(rest), Tensor.copyOf(Arrays.copyOfRange(v, 100 * ROW, v.length)));
        assertEquals(tokens, cache.length(layer));
      }

      float[] q = fill(3 * Q_ROW, 3);
      FloatBuffer out = floats(3 * Q_ROW);
      cache.attend(0, Tensor.copyOf(q), Tensor.f32(out));
      double[] want = Support.attention(k, v, q, SHAPE, 3);
      for (int i = 0; i < want.length; i++) {
        assertEquals(want[i], out.get(i), 2e-5, "element " + i);
      }
      FloatBuffer compressed = floats(3 * Q_ROW);
      cache.attend(1, Tensor.copyOf(q), Tensor.f32(compressed));
      assertFalse(Arrays.equals(copy(compressed), copy(out)), "a compressed layer answers exactly");
      assertFalse(Arrays.equals(copy(compressed), new float[3 * Q_ROW]), "nothing was written");
      ShortBuffer half = shorts(3 * Q_ROW);
      cache.attend(0, Tensor.copyOf(q), Tensor.f16(half), AttendOptions.DEFAULT.withQueries(3));
      for (int i = 0; i < half.capacity(); i++) {
        assertEquals(out.get(i), f32(half.get(i)), 2e-3, "element " + i);
      }

      FloatBuffer back = floats(2 * ROW);
      cache.read(0, Side.V, 150, 2, Tensor.f32(back));
      assertArrayEquals(Arrays.copyOfRange(v, 150 * ROW, 152 * ROW), copy(back));

      Stats stats = cache.stats(1, Side.BOTH);
      assertEquals(tokens, stats.tokens());
      assertEquals(2 * tokens * ROW, stats.elements());
      assertTrue(stats.sealedElements() > 0 && stats.bytesTotal() > 0 && stats.relErrorKMean() > 0, stats.toString());
      assertEquals(8.0 * stats.bytesTotal() / stats.elements(), stats.bitsPerElement());
      assertTrue(o.runtime().memory() >= stats.bytesTotal());

      try (KvgCache fork = cache.fork()) {
        fork.truncate(0, 299);
        assertEquals(299, fork.length(0));
        assertEquals(tokens, cache.length(0));
        cache.clear();
        assertEquals(0, cache.stats(KvgCache.ALL_LAYERS, Side.BOTH).tokens());
        assertEquals(tokens, fork.length(1));
      }
    }
  }

  @Test
  void strides() {
    try (var o = open(RuntimeOptions.DEFAULT, "fp16")) {
      float[] k = fill(3 * ROW, 1);
      float[] v = fill(3 * ROW, 2);
      float[] kOther = new float[3 * ROW]; // [heads, tokens, dims]
      float[] vOther = new float[5 * ROW]; // a row between any two
      for (int token = 0; token < 3; token++) {
        for (int head = 0; head < 2; head++) {
          System.arraycopy(k, token * ROW + head * 32, kOther, (head * 3 + token) * 32, 32);
        }
        System.arraycopy(v, token * ROW, vOther, 2 * token * ROW, ROW);
      }
      o.cache().append(0, Tensor.copyOf(kOther), Tensor.copyOf(vOther), 3, AppendOptions.DEFAULT.withStrides(Strides.of(32, 3 * 32), new Strides(2 * ROW, 32, 1)));
      FloatBuffer back = floats(3 * ROW);
      o.cache().read(0, Side.K, 0, 3, Tensor.f32(back));
      assertArrayEquals(k, copy(back));
      o.cache().read(0, Side.V, 0, 3, Tensor.f32(back));
      assertArrayEquals(v, copy(back));

      float[] q = fill(2 * Q_ROW, 3);
      float[] qOther = new float[2 * Q_ROW];
      for (int i = 0; i < 2; i++) {
        for (int h = 0; h < 4; h++) {
          System.arraycopy(q, i * Q_ROW + h * 32, qOther, (h * 2 + i) * 32, 32);
        }
      }
      FloatBuffer plain = floats(2 * Q_ROW);
      FloatBuffer strided = floats(2 * Q_ROW);
      o.cache().attend(0, Tensor.copyOf(q), Tensor.f32(plain));
      Strides other = Strides.of(32, 2 * 32);
      o.cache().attend(0, Tensor.copyOf(qOther), Tensor.f32(strided), AttendOptions.DEFAULT.withQueries(2).withStrides(other, other));
      for (int i = 0; i < 2; i++) {
        for (int h = 0; h < 4; h++) {
          for (int d = 0; d < 32; d++) {
            assertEquals(plain.get(i * Q_ROW + h * 32 + d), strided.get((h * 2 + i) * 32 + d));
          }
        }
      }
    }
  }

  @Test
  void attendOptionsReachTheLibrary() {
    try (var o = open(RuntimeOptions.DEFAULT, "fp16")) {
      float[] x = fill(50 * ROW, 1);
      o.cache().append(0, Tensor.copyOf(x), Tensor.copyOf(x));
      Tensor q = Tensor.copyOf(fill(2 * Q_ROW, 3));
      List<AttendOptions> all =
          List.of(
              AttendOptions.DEFAULT,
              AttendOptions.DEFAULT.withNonCausal(true),
              AttendOptions.DEFAULT.withScale(0.5f),
              AttendOptions.DEFAULT.withLogitSoftcap(1),
              AttendOptions.DEFAULT.withSlidingWindow(7));
      for (int i = 0; i < all.size(); i++) {
        for (int j = 0; j < i; j++) {
          assertFalse(Arrays.equals(answer(o, q, all.get(i)), answer(o, q, all.get(j))), i + " answers as " + j);
        }
      }
      float usual = (float) (1 / Math.sqrt(32));
      assertArrayEquals(answer(o, q, all.get(0)), answer(o, q, AttendOptions.DEFAULT.withScale(usual).withSlidingWindow(50)));
    }
  }

  private static float[] answer(Support.Opened o, Tensor q, AttendOptions options) {
    FloatBuffer out = floats(2 * Q_ROW);
    o.cache().attend(0, q, Tensor.f32(out), options);
    return copy(out);
  }

  @Test
  void errors() {
    try (var o = open(RuntimeOptions.DEFAULT.withMemoryBudget(1 << 20), "fp16")) {
      KvgCache cache = o.cache();
      Tensor q = Tensor.copyOf(fill(Q_ROW, 1));
      Tensor out = Tensor.f32(floats(Q_ROW));
      Tensor row = Tensor.copyOf(fill(ROW, 1));
      float[] bad = fill(ROW, 1);
      bad[5] = Float.NaN;
      Tensor nan = Tensor.copyOf(bad);
      Tensor big = Tensor.f16(shorts(8192 * ROW));
      Tensor readOnly = Tensor.f32(floats(Q_ROW).asReadOnlyBuffer());
      assertFails(Status.INVALID, "0 tokens", () -> cache.attend(0, q, out));
      assertFails(Status.INVALID, "layer", () -> cache.append(2, row, row));
      assertFails(Status.INVALID, "layer", () -> cache.append(-2, row, row));
      assertFails(Status.INVALID, "multiple of q_heads", () -> cache.attend(0, row, out));
      assertFails(Status.INVALID, "multiple of q_heads", () -> cache.attend(0, Tensor.copyOf(), out));
      assertFails(Status.INVALID, "same number", () -> cache.append(0, q, row));
      assertFails(Status.INVALID, "multiple of kv_heads", () -> cache.append(0, Tensor.copyOf(1, 2), Tensor.copyOf(1, 2)));
      assertFails(Status.INVALID, "element type", () -> cache.append(0, row, Tensor.f16(shorts(ROW))));
      assertFails(Status.NONFINITE, "", () -> cache.append(0, nan, nan));
      assertFails(Status.LIMIT, "budget", () -> cache.append(0, big, big));
      assertFails(Status.INVALID, "KVG_SIDE_BOTH", () -> cache.read(0, Side.BOTH, 0, 0, out));
      assertFails(Status.INVALID, "", () -> cache.truncate(0, 5));
      assertFails(Status.INVALID, "layer", () -> cache.stats(2, Side.K));
      assertFails(Status.INVALID, "gear-2", () -> KvgPlan.create(SHAPE, "gear-99"));
      assertFails(Status.INVALID, "layers", () -> KvgPlan.create(new Shape(0, 0, 0, 0), "fp16"));
      assertFails(Status.INVALID, "zero byte", () -> KvgPlan.create(SHAPE, "fp16\0"));
      assertFails(Status.INVALID, "", () -> Recipe.canonical(""));
      assertFails(Status.INVALID, "layer", () -> o.plan().recipe(2));
      assertFails(Status.INVALID, "threads", () -> KvgRuntime.create(RuntimeOptions.DEFAULT.withThreads(-1)));
      assertFails(Status.BACKEND, "", () -> KvgRuntime.create(RuntimeOptions.DEFAULT.withDevice(Device.CUDA, 77)));
      assertFails(Status.INVALID, "heap", () -> Tensor.f32(FloatBuffer.allocate(1)));
      ByteBuffer swapped = ByteBuffer.allocateDirect(64).order(
          ByteOrder.nativeOrder() == ByteOrder.LITTLE_ENDIAN ? ByteOrder.BIG_ENDIAN : ByteOrder.LITTLE_ENDIAN);
      assertFails(Status.INVALID, "byte order", () -> Tensor.f32(swapped.asFloatBuffer()));
      assertFails(Status.INVALID, "byte order", () -> Tensor.bf16(swapped.asShortBuffer()));
      assertEquals(16, Tensor.of(DType.F32, swapped).length()); // bytes have no order
      cache.append(0, row, row);
      assertFails(Status.INVALID, "read-only", () -> cache.attend(0, q, readOnly));
      assertFails(Status.INVALID, "read-only", () -> cache.read(0, Side.K, 0, 1, readOnly));
      assertFails(Status.INVALID, "overlap", () -> cache.attend(0, q, q));
      assertFails(Status.INVALID, "one behind the other", () -> AttendOptions.DEFAULT.withStrides(new Strides(1, 2, 3), Strides.CONTIGUOUS));
      ByteBuffer odd = Support.bytes(4 * ROW + 4).position(1);
      assertFails(Status.INVALID, "align", () -> cache.append(0, Tensor.of(DType.F32, odd.slice(1, 4 * ROW)), row));
      // Texts arrive as UTF-8; the message shows their bytes.
      assertFails(Status.INVALID, "\"gr\\xc3\\xbcn-\\xe7\\x8c\\xab\"", () -> Recipe.canonical("gr\u00fcn-\u732b"));
      assertFails(Status.INVALID, "\"cat-\\xf0\\x9f\\x98\\xba\"", () -> Recipe.canonical("cat-\ud83d\ude3a"));
      assertEquals(1, cache.length(0));
      assertTrue(o.runtime().memory() <= 1 << 20);
    }
    assertEquals(Status.UNKNOWN, new KvgException("x", 4711, "y").status());
  }

  @Test
  void numbersOfEnumerations() {
    for (Status s : Status.values()) {
      assertSame(s, Status.of(s.code()));
      if (s != Status.UNKNOWN) {
        assertEquals(s == Status.OK ? "KVG_OK" : "KVG_E_" + s.name(), KvgLibrary.statusName(s.code()));
      }
    }
    for (LogLevel l : LogLevel.values()) {
      assertSame(l, LogLevel.of(l.code()));
    }
    assertSame(LogLevel.ERROR, LogLevel.of(99));
  }

  @Test
  void afterClose() {
    var o = open(RuntimeOptions.DEFAULT, "int8");
    KvgRuntime runtime = o.runtime();
    KvgPlan plan = o.plan();
    KvgCache cache = o.cache();
    runtime.setLog((level, message) -> {});
    Tensor row = Tensor.copyOf(fill(ROW, 1));
    Tensor q = Tensor.copyOf(fill(Q_ROW, 1));
    Tensor out = Tensor.f32(floats(Q_ROW));
    cache.append(0, row, row);
    runtime.close();
    runtime.close();
    plan.close();
    cache.append(0, row, row); // goes on without the others' handles
    KvgCache fork = cache.fork();
    cache.close();
    cache.close();
    fork.attend(0, q, out);
    fork.close();
    List<Executable> calls =
        List.of(
            () -> cache.append(0, row, row),
            () -> cache.append(0, row, row, 1, AppendOptions.DEFAULT),
            () -> cache.attend(0, q, out),
            () -> cache.read(0, Side.K, 0, 1, out),
            () -> cache.truncate(0, 0),
            cache::clear,
            () -> cache.length(0),
            cache::fork,
            () -> cache.stats(0, Side.K),
            () -> KvgCache.attendBatch(List.of(cache), 0, q, out, AttendOptions.DEFAULT),
            () -> cache.attendObserve(0, q, out, AttendOptions.DEFAULT),
            () -> cache.held(0),
            () -> cache.positions(0, 0),
            () -> cache.bits(0, Side.K),
            () -> cache.select(0),
            () -> cache.appendAt(0, row, row, new long[1], AppendOptions.DEFAULT),
            () -> cache.observe(0, new float[1], 1),
            () -> cache.probe(0, q, new long[1], AttendOptions.DEFAULT),
            () -> cache.probePositions(0),
            () -> cache.nextTokens(0),
            () -> cache.save(Path.of("x")),
            () -> cache.save(ByteBuffer.allocate(9), SaveOptions.DEFAULT),
            () -> cache.savedBytes(SaveOptions.DEFAULT),
            () -> cache.save(OutputStream.nullOutputStream(), SaveOptions.DEFAULT),
            () -> cache.extend(Path.of("x"), LoadOptions.DEFAULT),
            () -> cache.extend(ByteBuffer.allocate(9), LoadOptions.DEFAULT),
            () -> cache.extend(InputStream.nullInputStream(), LoadOptions.DEFAULT),
            () -> runtime.loadCache(plan, Path.of("x")),
            () -> runtime.loadCache(plan, ByteBuffer.allocate(9), LoadOptions.DEFAULT),
            () -> runtime.loadCache(plan, InputStream.nullInputStream(), LoadOptions.DEFAULT),
            () -> runtime.newPrefix(0),
            () -> runtime.newCache(plan),
            runtime::describe,
            runtime::memory,
            () -> runtime.setLog(null),
            plan::shape,
            () -> plan.recipe(0));
    for (Executable call : calls) {
      assertFails(Status.STATE, "closed", call);
    }
    try (KvgRuntime other = KvgRuntime.create()) {
      assertFails(Status.STATE, "the plan is closed", () -> other.newCache(plan));
    }
  }

  @Test
  void recipes() {
    List<Recipe> recipes = Recipe.all();
    assertTrue(recipes.stream().anyMatch(r -> r.name().equals("gear-2") && r.summary().length() > 10), recipes.toString());
    for (Recipe r : recipes) {
      assertEquals(r.name(), Recipe.canonical(r.name()));
    }
    String text =
        "gear-2,k.bits=3,v.bits=4,k.group=64,v.group=64,k.outliers=0.01,v.outliers=0.015,k.rank=3,v.rank=5,k.decode_rank=2,"
            + "v.decode_rank=1,k.sweeps=3,v.sweeps=4,k.window=64,v.window=128,k.block=64,v.block=64,k.segment=512,v.segment=256";
    String canonical = Recipe.canonical(text);
    assertTrue(canonical.length() > 128, canonical);
    assertEquals(canonical, Recipe.canonical(canonical));
    // Longer than the first buffer that is offered.
    StringBuilder repeated = new StringBuilder("gear-2");
    for (int i = 0; i < 20; i++) {
      repeated.append(",k.outliers=0.0123456789012,v.outliers=0.0123456789012");
    }
    byte[] long1 = Texts.terminated("", "", text);
    long[] needed = new long[1];
    KvgException e = assertFails(Status.BUFFER_TOO_SMALL, "", () -> Raw.kvg_recipe_canonical(long1, new byte[5], needed));
    assertEquals("kvg_recipe_canonical", e.operation());
    assertEquals(canonical.length() + 1, needed[0]);
    int[] asked = new int[1];
    String answer =
        Texts.ask(
            (buffer, n) -> {
              n[0] = 301;
              if (asked[0]++ == 0) {
                throw new KvgException("x", RawConstants.KVG_E_BUFFER_TOO_SMALL, "too small");
              }
              assertEquals(301, buffer.length);
              Arrays.fill(buffer, (byte) 'a');
            });
    assertEquals("a".repeat(300), answer);
    assertFails(Status.INVALID, "", () -> Recipe.canonical(repeated.append(",k.bits=99").toString()));
  }

  /** What the package writes into structs is what the C functions would. */
  @Test
  void defaults() {
    KvgLibrary.load();
    byte[] options = new byte[Structs.KvgRuntimeOptions.SIZE];
    Raw.kvg_runtime_options_init(options);
    assertArrayEquals(options, RuntimeOptions.DEFAULT.pack());
    byte[] append = new byte[Structs.KvgAppendDesc.SIZE];
    Raw.kvg_append_desc_init(append);
    assertArrayEquals(append, AppendOptions.DEFAULT.pack(DType.F16, 0));
    byte[] attend = new byte[Structs.KvgAttendDesc.SIZE];
    Raw.kvg_attend_desc_init(attend);
    assertArrayEquals(attend, AttendOptions.DEFAULT.pack(DType.F16, DType.F16, 1));
    byte[] shape = new byte[Structs.KvgShape.SIZE];
    Raw.kvg_shape_init(shape);
    assertArrayEquals(shape, new Shape(0, 0, 0, 0).pack());
    byte[] save = new byte[Structs.KvgSaveDesc.SIZE];
    Raw.kvg_save_desc_init(save);
    assertArrayEquals(save, SaveOptions.DEFAULT.pack().struct());
    byte[] load = new byte[Structs.KvgLoadDesc.SIZE];
    Raw.kvg_load_desc_init(load);
    assertArrayEquals(load, LoadOptions.DEFAULT.pack().struct());
    byte[] prefix = new byte[Structs.KvgPrefixStats.SIZE];
    Raw.kvg_prefix_stats_init(prefix);
    assertArrayEquals(prefix, Struct.make(Structs.KvgPrefixStats.SIZE));
    byte[] stats = new byte[Structs.KvgStats.SIZE];
    Raw.kvg_stats_init(stats);
    assertArrayEquals(stats, Struct.make(Structs.KvgStats.SIZE));
    byte[] allocator = new byte[Structs.KvgAllocator.SIZE];
    Raw.kvg_allocator_init(allocator);
    assertArrayEquals(allocator, Struct.make(Structs.KvgAllocator.SIZE));
    try {
      Raw.kvg_shape_init(new byte[Structs.KvgShape.SIZE - 1]);
      fail("a short array is taken");
    } catch (ArrayIndexOutOfBoundsException e) {
      assertTrue(e.getMessage() != null);
    }
  }

  /** Tensors are the memory itself: the library reads from and writes to the address of the buffer. */
  @Test
  void nothingIsCopied() {
    try (var o = open(RuntimeOptions.DEFAULT, "fp16")) {
      FloatBuffer k = floats(2 * ROW).put(0, fill(2 * ROW, 1));
      Tensor second = Tensor.f32(k.slice(ROW, ROW));
      Tensor whole = Tensor.f32(k);
      assertEquals(whole.address("") + 4 * ROW, second.address(""));
      k.put(ROW, 0.25f); // after the tensor was made
      o.cache().append(0, second, second);
      FloatBuffer back = floats(3 * ROW);
      Tensor middle = Tensor.f32(back.position(ROW).limit(2 * ROW));
      assertEquals(ROW, middle.length());
      o.cache().read(0, Side.K, 0, 1, middle);
      assertEquals(0.25f, back.get(ROW));
      back.clear();
      assertEquals(0f, back.get(ROW - 1));
      assertEquals(0f, back.get(2 * ROW));
    }
  }

  /** Memory that is not Java's is used where it lies, and a stream needs a device. */
  @Test
  void foreignMemoryAndStreams() {
    try (var o = open(RuntimeOptions.DEFAULT, "fp16")) {
      KvgCache cache = o.cache();
      FloatBuffer k = floats(ROW).put(0, fill(ROW, 1));
      Tensor there = Tensor.memory(DType.F32, Tensor.f32(k).address(""), ROW, k);
      assertEquals(ROW, there.length());
      cache.append(0, there, there);
      FloatBuffer back = floats(ROW);
      cache.read(0, Side.K, 0, 1, Tensor.memory(DType.F32, Tensor.f32(back).address(""), ROW, null));
      assertEquals(k, back);
      Tensor q = Tensor.copyOf(fill(Q_ROW, 1));
      Tensor out = Tensor.f32(floats(Q_ROW));
      AttendOptions on = AttendOptions.DEFAULT.withStream(8);
      String words = "stream is set";
      assertFails(Status.INVALID, words, () -> cache.append(0, there, there, 1, AppendOptions.DEFAULT.withStream(8)));
      assertFails(Status.INVALID, words, () -> cache.attend(0, q, out, on));
      assertFails(Status.INVALID, words, () -> cache.attendObserve(0, q, out, on));
      assertFails(Status.INVALID, words, () -> KvgCache.attendBatch(List.of(cache), 0, q, out, on));
      AttendOptions latent = AttendOptions.DEFAULT.withLatentOut(true);
      assertFails(Status.INVALID, "latent_out is set", () -> cache.attend(0, q, out, latent));
    }
  }

  @Test
  void garbageIsFreed() throws InterruptedException {
    try (KvgRuntime runtime = KvgRuntime.create()) {
      leaveGarbage(runtime);
      long end = System.nanoTime() + 20_000_000_000L;
      while (runtime.memory() != 0) {
        System.gc();
        Thread.sleep(2);
        assertTrue(System.nanoTime() < end, "caches that nothing refers to keep their memory");
      }
    }
  }

  private static void leaveGarbage(KvgRuntime runtime) {
    KvgPlan plan = KvgPlan.create(SHAPE, "gear-2");
    Tensor x = Tensor.copyOf(fill(200 * ROW, 1));
    for (int i = 0; i < 20; i++) {
      KvgCache cache = runtime.newCache(plan);
      cache.append(0, x, x);
      cache.fork();
    }
    assertTrue(runtime.memory() > 0);
  }
}
