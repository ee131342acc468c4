package org.kvgear;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** The conformance vectors of the repository: tests/conformance/vectors/README.md. */
class VectorsTest {
  private static final Path FOLDER = Support.REPOSITORY.resolve("tests/conformance/vectors");
  private static final Map<String, DType> TYPES = Map.of("f32", DType.F32, "f16", DType.F16, "bf16", DType.BF16);
  private static final Map<String, Side> SIDES = Map.of("k", Side.K, "v", Side.V, "both", Side.BOTH);

  private final Map<String, KvgRuntime> runtimes = new HashMap<>();
  private final Map<String, KvgPlan> plans = new HashMap<>();
  private final Map<String, KvgCache> caches = new HashMap<>();
  private final Map<String, Shape> shapes = new HashMap<>(); // of plans and caches

  // The line that is run.
  private String where;
  private Map<String, String> keys;
  private String name;
  private String status; // "" when the call must succeed
  private String says;
  private Map<String, String> expected;

  @TestFactory
  Stream<DynamicTest> files() throws IOException {
    List<Path> files;
    try (Stream<Path> all = Files.list(FOLDER)) {
      files = all.filter(f -> f.toString().endsWith(".vec")).sorted().toList();
    }
    assertFalse(files.isEmpty());
    return files.stream().map(f -> DynamicTest.dynamicTest(f.getFileName().toString(), () -> new VectorsTest().runFile(f)));
  }

  private void runFile(Path file) {
    List<String> lines = Support.lines(file);
    int calls = 0;
    for (int i = 0; i < lines.size(); i++) {
      String line = lines.get(i);
      if (line.isEmpty() || line.startsWith("#") || line.startsWith(">")) {
        continue;
      }
      where = file.getFileName() + ":" + (i + 1);
      String[] parts = line.split(" ! ", 2);
      String[] expectation = (parts.length == 2 ? parts[1] : "").split(" ", 2);
      status = expectation[0];
      says = expectation.length == 2 ? expectation[1] : "";
      String[] words = parts[0].split(" ");
      keys = pairs(words);
      name = words.length > 1 && !words[1].contains("=") ? words[1] : "";
      expected = i + 1 < lines.size() && lines.get(i + 1).startsWith(">") ? pairs(lines.get(i + 1).split(" ")) : Map.of();
      run(words[0]);
      calls++;
    }
    reset();
    assertTrue(calls >= 10, "only " + calls + " calls");
  }

  private static Map<String, String> pairs(String[] words) {
    Map<String, String> pairs = new HashMap<>();
    for (String word : words) {
      int at = word.indexOf('=');
      if (at > 0) {
        pairs.put(word.substring(0, at), word.substring(at + 1));
      }
    }
    return pairs;
  }

  private void reset() {
    caches.values().forEach(KvgCache::close);
    plans.values().forEach(KvgPlan::close);
    runtimes.values().forEach(KvgRuntime::close);
    caches.clear();
    plans.clear();
    runtimes.clear();
    shapes.clear();
  }

  private String get(String key) {
    assertTrue(keys.containsKey(key), () -> where + ": there is no " + key);
    return keys.get(key);
  }

  private long number(String key) {
    String text = get(key);
    return text.equals("all") ? KvgCache.ALL_LAYERS : Long.parseUnsignedLong(text);
  }

  private long number(String key, long otherwise) {
    return keys.containsKey(key) ? number(key) : otherwise;
  }

  private int small(String key) {
    return (int) number(key);
  }

  private float real(String key) {
    return keys.containsKey(key) ? Float.parseFloat(keys.get(key)) : 0;
  }

  private DType type(String key) {
    return TYPES.get(keys.getOrDefault(key, "f32"));
  }

  private static <T> T known(Map<String, T> objects, String name) {
    return java.util.Objects.requireNonNull(objects.get(name), () -> "unknown object " + name);
  }

  private KvgCache cache() {
    return known(caches, name);
  }

  /** Makes a call and compares its status and message; null when it failed as it should. */
  private <T> T answer(Supplier<T> call) {
    try {
      T result = call.get();
      assertEquals("", status, where);
      return result;
    } catch (KvgException e) {
      assertEquals(status.isEmpty() ? "KVG_OK" : status, KvgLibrary.statusName(e.code()), () -> where + ": " + e.detail());
      assertTrue(e.detail().contains(says), () -> where + ": the message \"" + e.detail() + "\" does not hold \"" + says + "\"");
      return null;
    }
  }

  private boolean succeeds(Runnable call) {
    return answer(() -> {
      call.run();
      return true;
    }) != null;
  }

  private void equal(String key, Object got) {
    assertEquals(expected.get(key), String.valueOf(got), () -> where + ": " + key);
  }

  private static float value(int seed, long index) {
    int x = (int) index * 0x9E3779B1 + seed * 0x85EBCA77 + 374761393;
    x ^= x >>> 15;
    x *= 0x85EBCA77;
    x ^= x >>> 13;
    x *= 0xC2B2AE3D;
    x ^= x >>> 16;
    float value = ((x & 255) - 128) / 64f;
    return (x >>> 8 & 63) == 0 ? value * 8 : value;
  }

  private Strides layout(int tokens, int heads, int dim) {
    return isStrided() ? Strides.of(dim, (long) tokens * dim) : Strides.of((long) heads * dim, dim);
  }

  private boolean isStrided() {
    return keys.getOrDefault("layout", "thd").equals("htd");
  }

  private static int size(DType dtype) {
    return dtype == DType.F32 ? 4 : 2;
  }

  private static ByteBuffer room(int elements, DType dtype) {
    return Support.bytes(elements * size(dtype));
  }

  private static void put(ByteBuffer out, DType dtype, int at, float x) {
    switch (dtype) {
      case F32 -> out.putFloat(4 * at, x);
      case F16 -> out.putShort(2 * at, Support.f16(x));
      case BF16 -> out.putShort(2 * at, (short) (Float.floatToRawIntBits(x) >> 16));
      default -> throw new AssertionError(dtype);
    }
  }

  private static double real(DType dtype, int bits) {
    return switch (dtype) {
      case F32 -> Float.intBitsToFloat(bits);
      case F16 -> Support.f32((short) bits);
      case BF16 -> Float.intBitsToFloat(bits << 16);
    };
  }

  private static double element(ByteBuffer x, DType dtype, int at) {
    return real(dtype, dtype == DType.F32 ? x.getInt(4 * at) : x.getShort(2 * at));
  }

  private static ByteBuffer input(int seed, long first, int tokens, int heads, int dim, Strides s, DType dtype) {
    ByteBuffer x = room(tokens * heads * dim, dtype);
    for (int t = 0; t < tokens; t++) {
      for (int h = 0; h < heads; h++) {
        for (int d = 0; d < dim; d++) {
          put(x, dtype, (int) (t * s.token() + h * s.head() + d), value(seed, ((first + t) * heads + h) * dim + d));
        }
      }
    }
    return x;
  }

  private static Tensor cut(ByteBuffer x, DType dtype, long elements) {
    return Tensor.of(dtype, x.slice(0, x.capacity() - (int) elements * size(dtype)));
  }

  /** Compares a tensor in the order [tokens, heads, dims]. */
  private void output(ByteBuffer out, DType dtype, double bound) {
    if (bound == 0) {
      long hash = 0xcbf29ce484222325L;
      for (int i = 0; i < out.capacity(); i++) {
        hash = (hash ^ out.get(i) & 0xFF) * 0x100000001b3L;
      }
      equal("fnv", String.format("%016x", hash));
      return;
    }
    int every = Integer.parseInt(expected.get("every"));
    int at = 0;
    for (String hex : expected.get("values").split(",")) {
      assertEquals(real(dtype, Integer.parseUnsignedInt(hex, 16)), element(out, dtype, at), bound, where + ": element " + at);
      at += every;
    }
    assertTrue(at >= out.capacity() / size(dtype), () -> where + ": there are too few values");
  }

  private void append() {
    Shape s = known(shapes, name);
    int tokens = small("tokens");
    DType dtype = type("dtype");
    Strides order = layout(tokens, s.kvHeads(), s.headDim());
    ByteBuffer k = input(small("k"), number("first", 0), tokens, s.kvHeads(), s.headDim(), order, dtype);
    ByteBuffer v = input(small("v"), number("first", 0), tokens, s.kvHeads(), s.headDim(), order, dtype);
    if (keys.containsKey("poison")) {
      float poison = Map.of("nan", Float.NaN, "inf", Float.POSITIVE_INFINITY, "big", 70000f).get(get("poison"));
      put(v, dtype, v.capacity() / size(dtype) - 1, poison);
    }
    Strides strides = isStrided() ? order : Strides.CONTIGUOUS;
    Tensor values = cut(v, dtype, number("cut", 0));
    succeeds(() -> cache().append(small("layer"), Tensor.of(dtype, k), values, tokens, AppendOptions.DEFAULT.withStrides(strides, strides)));
  }

  private void attend() {
    Shape s = known(shapes, name);
    int queries = (int) number("queries", 1);
    int heads = s.qHeads();
    int dim = s.headDim();
    Strides order = layout(queries, heads, dim);
    Strides strides = isStrided() ? order : Strides.CONTIGUOUS;
    AttendOptions options =
        new AttendOptions(
            queries, number("non_causal", 0) == 1, real("scale"), real("softcap"), number("window", 0), strides, strides, false, 0);
    DType qType = type("q_dtype");
    DType outType = type("out_dtype");
    ByteBuffer q = input(small("q"), 0, queries, heads, dim, order, qType);
    ByteBuffer out = room(queries * heads * dim, outType);
    Tensor result = cut(out, outType, number("cut", 0));
    if (!succeeds(() -> cache().attend(small("layer"), Tensor.of(qType, q), result, options))) {
      return;
    }
    ByteBuffer ordered = room(queries * heads * dim, outType);
    int row = dim * size(outType);
    for (int i = 0; i < queries; i++) {
      for (int h = 0; h < heads; h++) {
        int from = (int) (i * order.token() + h * order.head()) * size(outType);
        ordered.put((i * heads + h) * row, out, from, row);
      }
    }
    output(ordered, outType, real("bound"));
  }

  private void read() {
    Shape s = known(shapes, name);
    long tokens = number("tokens");
    DType dtype = type("dtype");
    ByteBuffer out = room((int) Math.min(tokens, 1 << 16) * s.kvHeads() * s.headDim(), dtype);
    Tensor result = cut(out, dtype, number("cut", 0));
    if (succeeds(() -> cache().read(small("layer"), SIDES.get(get("side")), number("first"), tokens, result))) {
      output(out, dtype, real("bound"));
    }
  }

  private void stats() {
    Stats s = answer(() -> cache().stats(small("layer"), SIDES.get(get("side"))));
    if (s == null) {
      return;
    }
    equal("tokens", s.tokens());
    equal("elements", s.elements());
    equal("sealed_elements", s.sealedElements());
    equal("segments", s.segments());
    equal("bytes_codes", s.bytesCodes());
    equal("bytes_scales", s.bytesScales());
    equal("bytes_low_rank", s.bytesLowRank());
    equal("bytes_fp16", s.bytesFp16());
    Map.of("rel_error_k_mean", s.relErrorKMean(), "rel_error_v_mean", s.relErrorVMean())
        .forEach((key, got) -> assertEquals(Double.parseDouble(expected.get(key)), got, 0.02 * Math.abs(got) + 1e-6, where + ": " + key));
    assertEquals(
        s.bytesTotal(),
        s.bytesCodes() + s.bytesScales() + s.bytesLowRank() + s.bytesSparse() + s.bytesPositions() + s.bytesState()
            + s.bytesWindowAllocated() + s.bytesBookkeeping(),
        () -> where + ": bytes_total is not the sum");
    assertEquals(s.elements() == 0 ? 0 : 8.0 * s.bytesTotal() / s.elements(), s.bitsPerElement(), where);
  }

  private void close() {
    AutoCloseable object = caches.containsKey(name) ? caches.get(name) : plans.containsKey(name) ? plans.get(name) : known(runtimes, name);
    try {
      object.close();
    } catch (Exception e) {
      throw new AssertionError(where, e);
    }
  }

  private void run(String call) {
    switch (call) {
      case "case" -> reset();
      case "abi" -> assertTrue(
          KvgLibrary.abiMin() <= small("version") && small("version") <= KvgLibrary.abiVersion(), () -> where + ": not served");
      case "status" -> equal("name", KvgLibrary.statusName(small("code")));
      case "recipes" -> equal("names", Recipe.all().stream().map(Recipe::name).collect(Collectors.joining(",")));
      case "canonical" -> {
        String text = answer(() -> Recipe.canonical(keys.getOrDefault("text", "")));
        if (text != null) {
          equal("text", text);
        }
      }
      case "runtime" -> {
        RuntimeOptions options =
            RuntimeOptions.DEFAULT.withThreads((int) number("threads", 0)).withMemoryBudget(number("budget", 0));
        runtimes.put(name, answer(() -> KvgRuntime.create(options)));
        runtimes.values().removeIf(java.util.Objects::isNull);
      }
      case "plan" -> {
        Shape s = new Shape(small("layers"), small("q_heads"), small("kv_heads"), small("head_dim"));
        KvgPlan plan = answer(() -> KvgPlan.create(s, keys.getOrDefault("recipes", "")));
        if (plan != null) {
          plans.put(name, plan);
          shapes.put(name, s);
        }
      }
      case "plan_shape" -> {
        Shape s = answer(() -> known(plans, name).shape());
        if (s != null) {
          equal("layers", s.layers());
          equal("q_heads", s.qHeads());
          equal("kv_heads", s.kvHeads());
          equal("head_dim", s.headDim());
        }
      }
      case "plan_recipe" -> {
        String text = answer(() -> known(plans, name).recipe(small("layer")));
        if (text != null) {
          equal("text", text);
        }
      }
      case "cache" -> keep(get("plan"), answer(() -> known(runtimes, get("runtime")).newCache(known(plans, get("plan")))));
      case "append" -> append();
      case "length" -> {
        Long tokens = answer(() -> cache().length(small("layer")));
        if (tokens != null) {
          equal("tokens", tokens);
        }
      }
      case "attend" -> attend();
      case "read" -> read();
      case "truncate" -> succeeds(() -> cache().truncate(small("layer"), number("tokens")));
      case "clear" -> succeeds(() -> cache().clear());
      case "fork" -> keep(get("of"), answer(() -> known(caches, get("of")).fork()));
      case "stats" -> stats();
      case "memory" -> {
        Long bytes = answer(() -> known(runtimes, name).memory());
        if (bytes != null) {
          assertEquals(number("bytes"), bytes, where);
        }
      }
      case "close" -> close();
      default -> throw new AssertionError(where + ": unknown call " + call);
    }
  }

  private void keep(String shapeOf, KvgCache cache) {
    if (cache != null) {
      caches.put(name, cache);
      shapes.put(name, known(shapes, shapeOf));
    }
  }
}
