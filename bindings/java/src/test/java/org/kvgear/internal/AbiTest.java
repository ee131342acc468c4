package org.kvgear.internal;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/** Constants, structs and functions of this package are those of C. */
class AbiTest {
  private static final Path REPOSITORY = Path.of("../..");
  private static final Path ABI = REPOSITORY.resolve("capi/abi");

  /** capi/abi/layout.txt is what a C compiler says; a test of the repository compares the two. */
  @Test
  void layout() throws IOException {
    Set<String> want = new TreeSet<>();
    String struct = "";
    for (String line : Files.readAllLines(ABI.resolve("layout.txt"))) {
      String[] words = line.trim().split(" +");
      if (words[0].equals("struct")) {
        struct = words[1];
      }
      want.add(line.startsWith(" ") ? "field " + struct + "." + String.join(" ", words) : String.join(" ", words));
    }
    assertTrue(want.size() > 100, "C says only " + want.size() + " things");
    assertEquals(String.join("\n", want), String.join("\n", new TreeSet<>(CTable.LINES)));
  }

  /** The functions that the library exports, the header declares, SWIG wrapped and kvgear_jni.c looks up are the same ones. */
  @Test
  void functions() throws IOException {
    Set<String> want = new TreeSet<>(Files.readAllLines(ABI.resolve("symbols.txt")));
    assertTrue(want.size() > 30);

    Matcher declared =
        Pattern.compile("KVG_API [^;(]*?(kvg_\\w+)\\(").matcher(Files.readString(REPOSITORY.resolve("capi/include/kvgear/kvgear.h")));
    assertEquals(want, declared.results().map(m -> m.group(1)).collect(Collectors.toCollection(TreeSet::new)));

    Set<String> wrapped =
        Arrays.stream(Raw.class.getDeclaredMethods())
            .filter(m -> Modifier.isPublic(m.getModifiers()))
            .map(Method::getName)
            .collect(Collectors.toCollection(TreeSet::new));
    // They take functions: kvgear_jni.c has them.
    for (String name : List.of("kvg_runtime_set_log", "kvg_cache_save_stream", "kvg_cache_load_stream", "kvg_cache_extend_stream")) {
      assertTrue(wrapped.add(name), "SWIG is not to wrap " + name);
    }
    assertEquals(want, wrapped);

    Matcher table = Pattern.compile("#define (kvg_\\w+) kvg_functions").matcher(Files.readString(Path.of("src/main/c/functions.h")));
    assertEquals(want, table.results().map(m -> m.group(1)).collect(Collectors.toCollection(TreeSet::new)));
  }

  /** Each function is used by the package, or there is a reason why not. */
  @Test
  void everyFunctionIsBound() throws IOException {
    StringBuilder source = new StringBuilder();
    try (Stream<Path> files = Files.list(Path.of("src/main/java/org/kvgear"))) {
      for (Path file : files.filter(f -> f.toString().endsWith(".java")).toList()) {
        source.append(Files.readString(file));
      }
    }
    Set<String> used =
        Pattern.compile("Raw(\\.|::)(kvg_\\w+)").matcher(source).results().map(m -> m.group(2)).collect(Collectors.toCollection(TreeSet::new));
    assertTrue(source.indexOf("log.set(") > 0 && used.add("kvg_runtime_set_log"));
    for (String verb : List.of("save", "load", "extend")) {
      assertTrue(source.indexOf("Transfer." + verb + "(") > 0 && used.add("kvg_cache_" + verb + "_stream"));
    }
    Set<String> leftOut =
        Pattern.compile("(?m)^java (kvg_\\w+) \\S")
            .matcher(Files.readString(REPOSITORY.resolve("bindings/swig/left_out.txt")))
            .results()
            .map(m -> m.group(1))
            .collect(Collectors.toCollection(TreeSet::new));
    assertTrue(leftOut.contains("kvg_allocator_init"));
    for (String name : leftOut) {
      assertTrue(used.add(name), name + " is bound, but listed in left_out.txt");
    }
    assertEquals(new TreeSet<>(Files.readAllLines(ABI.resolve("symbols.txt"))), used);
  }

  /** Each comment of the header at a function stands at the method for it. */
  @Test
  void commentsAreThere() throws IOException {
    String cache = Files.readString(Path.of("src/main/java/org/kvgear/KvgCache.java"));
    for (String words : List.of("From kvgear.h, kvg_cache_attend:", "softmax_t(scale * q[i, h] . k[t, h / group])", "Cost: O(tokens), amortised.")) {
      assertTrue(cache.contains(words), words);
    }
  }
}
