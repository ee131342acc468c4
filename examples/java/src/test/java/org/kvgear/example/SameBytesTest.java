package org.kvgear.example;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.kvgear.Recipe;
import org.kvgear.example.model.Model;
import org.kvgear.example.service.Options;
import org.kvgear.example.service.Service;

/**
 * Other programs of this repository, given the same prompt and recipe, say the same to the byte. test.sh sets the environment
 * variables that name them.
 */
class SameBytesTest {
  private static final Path EXAMPLES = Path.of("..").toAbsolutePath().normalize();
  private static final int COUNT = 80;

  private static final List<String> SHORT = List.of("The cache keeps", "### memory", "A key and a value are ", "x", "\u00E9\u4E2D");

  private static List<String> recipes() {
    List<String> recipes = new ArrayList<>(Recipe.all().stream().map(Recipe::name).toList());
    recipes.add("gear-2,k.rank=2,v.bits=3,window=64");
    recipes.add("gear-2;0-1:int8");
    return recipes;
  }

  @Test
  void asTheDemo() throws Exception {
    String demo = System.getenv("KVGEAR_DEMO");
    assumeTrue(demo != null && !demo.isEmpty(), "KVGEAR_DEMO does not name kvgear-demo");
    Other other =
        (recipe, prompt) -> {
          byte[] said = run(demo, "--model", model(), "--recipes", recipe, "--max-tokens", String.valueOf(COUNT), "--prompt", prompt);
          int echo = prompt.getBytes(StandardCharsets.UTF_8).length; // before the answer; behind it is a line's end
          return Arrays.copyOfRange(said, echo, said.length - 1);
        };
    String text = Files.readString(EXAMPLES.resolve("data/text.txt"));
    compare(
        recipes(),
        List.of(
            "The cache keeps",
            text.substring(0, 129), // a block, and what is fed behind it
            text.substring(700, 1700)), // over 512, which is where sums are cut
        other);
    compare(List.of("gear-4", "kivi-2"), SHORT, other);
    compare(List.of("gear-4", "kivi-2"), List.of(text.substring(2000, 4500)), other);
  }

  @Test
  void asTheServiceInGo() throws Exception {
    String service = System.getenv("KVGEAR_GO_SERVICE");
    assumeTrue(service != null && !service.isEmpty(), "KVGEAR_GO_SERVICE does not name the service in Go");
    List<String> recipes = List.of("fp16", "int8", "gear-4", "gear-2", "kivi-2");
    compare(recipes, SHORT.subList(0, 3), (recipe, prompt) ->
        run(service, "-model", model(), "-recipe", recipe, "-max-tokens", String.valueOf(COUNT), "-prompt", prompt));
  }

  private static String model() {
    return EXAMPLES.resolve("models/tiny").toString();
  }

  private interface Other {
    byte[] says(String recipe, String prompt) throws Exception;
  }

  private static void compare(List<String> recipes, List<String> prompts, Other other) throws Exception {
    Options options = new Options("gear-4", COUNT, 1 << 20, 10, 0, 1);
    List<String> different = new ArrayList<>();
    try (Service service = new Service(new Model(Path.of(model())), options)) {
      for (String recipe : recipes) {
        for (String prompt : prompts) {
          ByteArrayOutputStream got = new ByteArrayOutputStream();
          service.continueText(got, recipe, prompt.getBytes(StandardCharsets.UTF_8), COUNT);
          assertEquals(COUNT, got.size());
          byte[] want = other.says(recipe, prompt);
          if (!Arrays.equals(want, got.toByteArray())) {
            different.add(recipe + ", '" + prompt + "': '" + latin(got.toByteArray()) + "', not '" + latin(want) + "'");
          }
        }
      }
    }
    assertEquals(List.of(), different);
  }

  private static String latin(byte[] bytes) {
    return new String(bytes, StandardCharsets.ISO_8859_1);
  }

  private static byte[] run(String... command) throws IOException, InterruptedException {
    Process process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.DISCARD).start();
    byte[] said = process.getInputStream().readAllBytes();
    assertEquals(0, process.waitFor(), String.join(" ", command));
    return said;
  }
}
