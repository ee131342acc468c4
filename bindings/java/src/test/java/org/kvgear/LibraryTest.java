package org.kvgear;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * Loading in programs of their own, each of which prints what it meets. bindings/go/testdata/preload.c stands between them and the library: it has
 * another ABI version where asked, writes log lines from a thread of its own, and uses streams on one.
 */
class LibraryTest {
  @TempDir static Path folder;
  private static Path real;
  private static Path shim;

  @BeforeAll
  static void build() throws Exception {
    real = Path.of(KvgLibrary.path());
    shim = folder.resolve("shim.so");
    String compiler = System.getenv().getOrDefault("CC", "cc");
    String source = Support.REPOSITORY + "/bindings/go/testdata/preload.c";
    run(
        List.of(compiler, "-shared", "-fPIC", "-I" + Support.REPOSITORY + "/capi/include/kvgear", source, "-o", shim.toString(),
            "-Wl,--no-as-needed", real.toString(), "-Wl,-rpath," + real.getParent(), "-ldl", "-lpthread"),
        Map.of());
  }

  private static String run(List<String> command, Map<String, String> environment) throws Exception {
    Path output = Files.createTempFile(folder, "out", ".txt");
    ProcessBuilder builder = new ProcessBuilder(command).redirectErrorStream(true).redirectOutput(output.toFile());
    builder.environment().keySet().removeAll(List.of("KVGEAR_LIBRARY", "LD_LIBRARY_PATH", "JAVA_TOOL_OPTIONS"));
    builder.environment().putAll(environment);
    Process process = builder.start();
    if (!process.waitFor(120, TimeUnit.SECONDS)) {
      process.destroyForcibly();
      throw new AssertionError(command + " does not end: " + Files.readString(output));
    }
    String text = Files.readString(output, StandardCharsets.UTF_8);
    assertEquals(0, process.exitValue(), text);
    return text;
  }

  /** A main class of this file with system properties; the class path is what the package and its tests are compiled to. */
  private static String java(Class<?> main, Map<String, String> environment, String... properties) throws Exception {
    return java(Path.of("target/classes"), main, environment, properties);
  }

  private static String java(Path classes, Class<?> main, Map<String, String> environment, String... properties) throws Exception {
    List<String> command = new ArrayList<>(List.of(System.getProperty("java.home") + "/bin/java", "-Xcheck:jni"));
    if (Runtime.version().feature() >= 22) {
      command.add("--enable-native-access=ALL-UNNAMED"); // else it warns, into what is compared
    }
    for (String property : properties) {
      command.add("-D" + property);
    }
    command.addAll(List.of("-cp", classes + ":" + Path.of("target/test-classes"), main.getName()));
    return run(command, environment);
  }

  /** Says where the library was found, or why not. */
  static final class Say {
    public static void main(String[] arguments) {
      try {
        System.out.println("found " + KvgLibrary.path() + " " + KvgLibrary.version());
      } catch (KvgException e) {
        System.out.println(e.status() + " " + e.getMessage());
        try { // not remembered
          KvgLibrary.load(Path.of(arguments.length == 0 ? "/nowhere" : arguments[0]));
          System.out.println("then loaded");
        } catch (KvgException again) {
          System.out.println("then " + again.status());
        }
      }
    }
  }

  @Test
  void searchOrder() throws Exception {
    Path other = Files.copy(real, folder.resolve("libother.so"));
    String variable = "KVGEAR_LIBRARY";
    assertStarts("found " + real, java(Say.class, Map.of(), "kvgear.library=" + real));
    assertStarts("found " + other, java(Say.class, Map.of(variable, other.toString())));
    assertStarts("found " + real, java(Say.class, Map.of(variable, other.toString()), "kvgear.library=" + real));

    // Inside the package, extracted to the folder that is asked for.
    assertStarts("found " + folder + "/cache/", java(Say.class, Map.of(), "kvgear.cache=" + folder + "/cache"));
    assertStarts("found " + folder + "/xdg/kvgear/", java(Say.class, Map.of("XDG_CACHE_HOME", folder + "/xdg")));

    // Beside the package comes before what is inside it, and explicit paths before that.
    Path beside = Files.createDirectories(folder.resolve("beside"));
    copyClasses(beside.resolve("package"), true);
    Files.copy(real, beside.resolve("libkvgear.so"));
    assertStarts("found " + beside + "/libkvgear.so", java(beside.resolve("package"), Say.class, Map.of()));
    assertStarts("found " + real, java(beside.resolve("package"), Say.class, Map.of(variable, real.toString())));

    // Nothing beside or inside: the system's.
    Path bare = folder.resolve("bare/package");
    copyClasses(bare, false);
    String jni = "kvgear.jni=" + wrapper();
    assertStarts("IO load: libkvgear was not found; set the system property kvgear.library", java(bare, Say.class, Map.of(), jni));
    Path system = Files.createDirectories(folder.resolve("system"));
    Files.copy(real, system.resolve("libkvgear.so.0"));
    assertStarts("found libkvgear.so.0 ", java(bare, Say.class, Map.of("LD_LIBRARY_PATH", system.toString()), jni));
    String without = java(bare, Say.class, Map.of());
    assertTrue(without.contains("libkvgear_jni.so of this package was not found") && without.contains("kvgear.jni"), without);
    Files.copy(wrapper(), system.resolve("libkvgear_jni.so"));
    assertStarts("found libkvgear.so.0 ", java(bare, Say.class, Map.of("LD_LIBRARY_PATH", system.toString())));
  }

  private static void assertStarts(String start, String text) {
    assertTrue(text.startsWith(start), () -> "not \"" + start + "\" but: " + text);
  }

  private static Path natives() {
    return Path.of("target/classes/org/kvgear/native");
  }

  private static Path wrapper() throws IOException {
    try (var files = Files.walk(natives())) {
      return files.filter(f -> f.endsWith("libkvgear_jni.so")).findFirst().orElseThrow();
    }
  }

  private static void copyClasses(Path to, boolean withNatives) throws IOException {
    Path from = Path.of("target/classes");
    try (var files = Files.walk(from)) {
      for (Path file : files.filter(Files::isRegularFile).filter(f -> withNatives || !f.startsWith(natives())).toList()) {
        Path target = to.resolve(from.relativize(file));
        Files.createDirectories(target.getParent());
        Files.copy(file, target);
      }
    }
  }

  @Test
  void explicitPathsAreTheOnlyOnes() throws Exception {
    String text = java(Say.class, Map.of(), "kvgear.library=/nowhere/libkvgear.so");
    assertStarts("IO load: /nowhere/libkvgear.so", text);
    assertTrue(text.contains("then IO"), text);
    Path text2 = Files.writeString(folder.resolve("text.so"), "no library");
    assertStarts("IO load: ", java(Say.class, Map.of("KVGEAR_LIBRARY", text2.toString())));
  }

  @Test
  void otherAbi() throws Exception {
    String property = "kvgear.library=" + shim;
    assertStarts(
        "UNSUPPORTED load: " + shim + " serves ABI versions 7 to 9, and this package needs 1: use a newer version of this package",
        java(Say.class, Map.of("KVGEAR_TEST_ABI", "7 9"), property));
    String older = java(Say.class, Map.of("KVGEAR_TEST_ABI", "0 0"), property);
    assertTrue(older.contains("install a newer libkvgear"), older);
    assertStarts("found " + shim, java(Say.class, Map.of("KVGEAR_TEST_ABI", "0 9"), property));
  }

  @Test
  void noLibkvgear() throws Exception {
    Path source = Files.writeString(folder.resolve("other.c"), "unsigned kvg_abi_min(void) { return 1; } unsigned kvg_abi_version(void) { return 1; }");
    Path lacking = folder.resolve("lacking.so");
    String compiler = System.getenv().getOrDefault("CC", "cc");
    run(List.of(compiler, "-shared", "-fPIC", source.toString(), "-o", lacking.toString()), Map.of());
    String text = java(Say.class, Map.of(), "kvgear.library=" + lacking);
    assertTrue(text.startsWith("UNSUPPORTED load: " + lacking + " has no function kvg_"), text);
    run(List.of(compiler, "-shared", "-fPIC", "-xc", "/dev/null", "-o", lacking.toString()), Map.of());
    text = java(Say.class, Map.of(), "kvgear.library=" + lacking);
    assertTrue(text.contains("is no libkvgear"), text);
  }

  /** Each kvg_runtime_memory of the shim writes 100 lines from a thread that ends behind them. */
  static final class ForeignLog {
    public static void main(String[] arguments) {
      Thread.setDefaultUncaughtExceptionHandler((thread, e) -> System.out.println("uncaught " + e.getMessage()));
      int[] lines = new int[1];
      boolean[] good = {true};
      try (KvgRuntime runtime = KvgRuntime.create()) {
        runtime.setLog((level, message) -> {
          Thread thread = Thread.currentThread();
          good[0] &= message.equals("line " + lines[0] + " of 100") && level.code() == lines[0] % 4 && thread.isDaemon()
              && thread.getName().equals("kvgear");
          lines[0]++;
          if (lines[0] % 10 == 0) {
            System.gc();
          }
          if (lines[0] == 50) {
            throw new IllegalStateException("ends this call of the sink, nothing else");
          }
        });
        for (int round = 0; round < 3; round++) {
          lines[0] = 0;
          runtime.memory();
          System.out.println(lines[0] + " " + good[0]);
        }
        System.out.println(Arrays.asList(threads()).contains("kvgear") ? "a thread is left" : "no thread is left");
        runtime.setLog(null);
        runtime.memory();
        System.out.println(lines[0]);
      }
    }

    private static String[] threads() {
      return Thread.getAllStackTraces().keySet().stream().map(Thread::getName).toArray(String[]::new);
    }
  }

  @Test
  void logFromForeignThreads() throws Exception {
    String text = java(ForeignLog.class, Map.of(), "kvgear.library=" + shim);
    String uncaught = "uncaught ends this call of the sink, nothing else\n";
    assertEquals((uncaught + "100 true\n").repeat(3) + "no thread is left\n100\n", text);
  }

  /** The shim reads and writes streams on threads of its own. */
  static final class ForeignStreams {
    public static void main(String[] arguments) {
      try (KvgRuntime runtime = KvgRuntime.create();
          KvgPlan plan = KvgPlan.create(Support.SHAPE, "fp16");
          KvgCache cache = runtime.newCache(plan)) {
        Tensor x = Tensor.copyOf(Support.fill(1500 * Support.ROW, 1));
        cache.append(0, x, x);
        for (int round = 0; round < 3; round++) {
          ByteArrayOutputStream data = new ByteArrayOutputStream() {
            @Override
            public synchronized void write(byte[] from, int offset, int length) {
              super.write(from, offset, length);
              System.gc();
              if (!Thread.currentThread().isDaemon() || !Thread.currentThread().getName().equals("kvgear")) {
                throw new IllegalStateException(Thread.currentThread() + " is no foreign thread");
              }
            }
          };
          cache.save(data, SaveOptions.DEFAULT);
          try (KvgCache back = runtime.loadCache(plan, new ByteArrayInputStream(data.toByteArray()), LoadOptions.DEFAULT)) {
            System.out.println(back.length(0));
          }
          try {
            cache.save(new OutputStream() {
              @Override
              public void write(int b) {
                throw new IllegalStateException("the stream is closed");
              }
            }, SaveOptions.DEFAULT);
          } catch (KvgException e) {
            System.out.println(e.status() + " " + e.getCause().getMessage());
          }
        }
        System.out.println(Arrays.asList(ForeignLog.threads()).contains("kvgear") ? "a thread is left" : "no thread is left");
      }
    }
  }

  @Test
  void streamsOnForeignThreads() throws Exception {
    String text = java(ForeignStreams.class, Map.of(), "kvgear.library=" + shim);
    assertEquals("1500\nIO the stream is closed\n".repeat(3) + "no thread is left\n", text);
  }
}
