package org.kvgear.example;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.kvgear.KvgException;
import org.kvgear.Status;
import org.kvgear.example.model.Model;
import org.kvgear.example.service.Options;
import org.kvgear.example.service.Service;

/** The service by HTTP, with a small model. */
class ServiceTest {
  private static final int MAX_BODY = 1 << 16;
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final HttpClient CLIENT = HttpClient.newHttpClient();
  private static Model model;

  private Service service;
  private Server server;
  private String url;

  record Reply(int status, JsonNode body, String contentType) {
    String text() {
      return body.path("choices").path(0).path("text").asText("no text: " + body);
    }
  }

  @BeforeAll
  static void load(@TempDir Path folder) throws IOException {
    model = SmallModel.make(folder);
  }

  private void start(String recipe, int maxTokens, int maxCaches, long budget) throws IOException {
    service = new Service(model, new Options(recipe, maxTokens, MAX_BODY, maxCaches, budget, 2));
    server = new Server(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), service);
    url = "http://127.0.0.1:" + server.address().getPort();
  }

  private void start() throws IOException {
    start("gear-4", 64, 100, 0);
  }

  @AfterEach
  void stop() {
    assertTrue(server.drain(20), "requests are still under way");
    service.close();
    assertEquals(Status.STATE, assertThrows(KvgException.class, service::memory).status());
  }

  private HttpRequest request(String method, String path, String body) {
    return HttpRequest.newBuilder(URI.create(url + path)).method(method, HttpRequest.BodyPublishers.ofString(body)).build();
  }

  private Reply call(String method, String path, String body) throws IOException, InterruptedException {
    HttpResponse<String> response = CLIENT.send(request(method, path, body), HttpResponse.BodyHandlers.ofString());
    JsonNode json = response.body().isEmpty() ? JSON.nullNode() : JSON.readTree(response.body());
    return new Reply(response.statusCode(), json, response.headers().firstValue("Content-Type").orElse(""));
  }

  private Reply complete(String body) throws IOException, InterruptedException {
    Reply reply = call("POST", "/v1/completions", body.replace('\'', '"'));
    assertEquals(200, reply.status(), reply.toString());
    return reply;
  }

  private String alone(String recipe, String prompt, int count) throws IOException {
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    service.continueText(out, recipe, prompt.getBytes(StandardCharsets.UTF_8), count);
    return out.toString(StandardCharsets.UTF_8);
  }

  @Test
  void completion() throws Exception {
    start();
    long before = service.memory();
    String want = alone("gear-4", "The cache keeps", 30);
    Reply reply = complete("{'prompt': 'The cache keeps', 'max_tokens': 30}");
    assertEquals(30, want.length());
    assertEquals(want, reply.text());
    assertEquals("application/json", reply.contentType());
    JsonNode body = reply.body();
    assertTrue(body.path("cache").isMissingNode(), "a cache that nobody asked for");
    assertEquals("text_completion", body.path("object").asText());
    assertEquals("length", body.path("choices").path(0).path("finish_reason").asText());
    assertEquals(15, body.path("usage").path("prompt_tokens").asInt());
    assertEquals(45, body.path("usage").path("total_tokens").asInt());
    assertEquals(
        alone("fp16", "The cache keeps", 30), complete("{'prompt': 'The cache keeps', 'max_tokens': 30, 'recipe': 'fp16'}").text());
    assertEquals(16, complete("{'prompt': '\\u00e9', 'recipe': null, 'temperature': 0.0, 'unknown': [1]}").text().length());
    assertEquals(before, service.memory());
  }

  @Test
  void stream() throws Exception {
    start();
    String want = alone("gear-4", "The cache keeps", 30);
    HttpRequest r = request("POST", "/v1/completions", "{\"prompt\": \"The cache keeps\", \"max_tokens\": 30, \"stream\": true}");
    HttpResponse<String> response = CLIENT.send(r, HttpResponse.BodyHandlers.ofString());
    assertEquals("text/event-stream", response.headers().firstValue("Content-Type").orElse(""));
    StringBuilder text = new StringBuilder();
    String[] events = response.body().split("\n\n");
    assertEquals("data: [DONE]", events[events.length - 1]);
    assertTrue(events.length > 20, response.body());
    for (int i = 0; i < events.length - 1; i++) {
      JsonNode event = JSON.readTree(events[i].replaceFirst("^data: ", ""));
      JsonNode choice = event.path("choices").path(0);
      text.append(choice.path("text").asText());
      boolean last = i == events.length - 2;
      assertEquals(last ? "length" : "null", choice.path("finish_reason").asText());
      assertEquals(last, event.has("usage"));
    }
    assertEquals(want, text.toString());
  }

  @Test
  void conversation() throws Exception {
    start("gear-2", 64, 100, 0);
    long before = service.memory();
    Reply begun = complete("{'prompt': 'A conversation about ', 'max_tokens': 8, 'keep': true}");
    String id = begun.body().path("cache").asText();
    assertEquals(8, begun.text().length());
    Reply forked = call("POST", "/v1/caches/" + id + "/fork", "");
    assertEquals(201, forked.status());
    String fork = forked.body().path("id").asText();
    assertNotEquals(id, fork);
    List<String> next = new ArrayList<>();
    for (String cache : List.of(id, fork)) {
      Reply reply = complete("{'prompt': ' memory and ', 'max_tokens': 8, 'cache': '" + cache + "'}");
      assertEquals(cache, reply.body().path("cache").asText());
      next.add(reply.text());
    }
    assertEquals(next.get(0), next.get(1));

    JsonNode list = call("GET", "/v1/caches", "").body();
    assertEquals(2, list.path("data").size());
    for (JsonNode item : list.path("data")) {
      assertEquals("gear-2", item.path("recipe").asText());
      assertEquals("A conversation about ".length() + 8 + " memory and ".length() + 8 - 1, item.path("tokens").asInt());
      JsonNode bytes = item.path("bytes");
      long parts = 0;
      for (String part : List.of("codes", "scales", "low_rank", "sparse", "window", "bookkeeping")) {
        assertTrue(bytes.path(part).isIntegralNumber(), part);
        parts += bytes.path(part).asLong();
      }
      assertEquals(bytes.path("total").asLong(), parts);
      assertTrue(bytes.path("window").asLong() > 0);
    }
    assertTrue(list.path("bytes").asLong() > before);
    for (String cache : List.of(id, fork)) {
      assertEquals(204, call("DELETE", "/v1/caches/" + cache, "").status());
      assertEquals(404, call("DELETE", "/v1/caches/" + cache, "").status());
    }
    assertEquals(before, service.memory());
  }

  @Test
  void badRequests() throws Exception {
    start("gear-4", 64, 1, 300 << 10);
    String id = complete("{'prompt': 'x', 'max_tokens': 1, 'keep': true}").body().path("cache").asText();
    String completions = "/v1/completions";
    record Case(String method, String path, String body, int status, String words) {}
    List<Case> cases =
        List.of(
            new Case("POST", completions, "{", 400, "JSON"),
            new Case("POST", completions, "", 400, "JSON"),
            new Case("POST", completions, "[]", 400, "object"),
            new Case("POST", completions, "{'prompt': 'a'} x", 400, "JSON"),
            new Case("POST", completions, "[".repeat(5000), 400, "JSON"),
            new Case("POST", completions, "{'max_tokens': 3}", 400, "prompt"),
            new Case("POST", completions, "{'prompt': ''}", 400, "empty"),
            new Case("POST", completions, "{'prompt': ['a']}", 400, "JSON"),
            new Case("POST", completions, "{'prompt': 5}", 400, "prompt is to be a text"),
            new Case("POST", completions, "{'prompt': 'a', 'stream': 'yes'}", 400, "true or false"),
            new Case("POST", completions, "{'prompt': 'a', 'max_tokens': 0}", 400, "1 to 64"),
            new Case("POST", completions, "{'prompt': 'a', 'max_tokens': 65}", 400, "1 to 64"),
            new Case("POST", completions, "{'prompt': 'a', 'max_tokens': 4294967297}", 400, "1 to 64"),
            new Case("POST", completions, "{'prompt': 'a', 'max_tokens': 1.5}", 400, "whole"),
            new Case("POST", completions, "{'prompt': 'a', 'temperature': 0.7}", 400, "temperature"),
            new Case("POST", completions, "{'prompt': 'a', 'recipe': 'gear-99'}", 400, "gear-2"),
            new Case("POST", completions, "{'prompt': 'a', 'recipe': 'int8,block=7'}", 400, "block"),
            new Case("POST", completions, "{'prompt': 'a', 'recipe': 'int8\\u0000'}", 400, "recipe"),
            new Case("POST", completions, "{'prompt': 'a', 'cache': 'nope'}", 404, "nope"),
            new Case("POST", completions, "{'prompt': 'a', 'cache': '" + id + "', 'recipe': 'int8'}", 400, "both"),
            new Case("POST", completions, "{'prompt': 'a', 'keep': true}", 429, "delete"),
            new Case("POST", completions, "{'prompt': '" + "a".repeat(4090) + "'}", 400, "4096 positions"),
            new Case("POST", completions, "{'prompt': '" + "a".repeat(MAX_BODY) + "'}", 413, "65536"),
            new Case("POST", completions, "{'recipe': 'fp16', 'prompt': '" + "long ".repeat(140) + "'}", 429, "budget"),
            new Case("GET", completions, "", 405, "POST"),
            new Case("POST", "/v1/caches", "", 405, "GET"),
            new Case("POST", "/v1/caches/" + id + "/fork", "", 429, "delete"),
            new Case("POST", "/v1/caches/nope/fork", "", 404, "nope"),
            new Case("PUT", "/v1/caches/" + id, "", 405, "DELETE"),
            new Case("GET", "/v1/caches/" + id + "/fork", "", 405, "POST"),
            new Case("POST", "/v1/caches/" + id + "/spoon", "", 404, "spoon"),
            new Case("GET", "/v2", "", 404, "/v2"));
    for (Case c : cases) {
      Reply reply = call(c.method(), c.path(), c.body().replace('\'', '"'));
      String message = reply.body().path("error").path("message").asText();
      assertEquals(c.status(), reply.status(), c + " " + reply);
      assertTrue(message.contains(c.words()), c + " gives: " + message);
      assertEquals("invalid_request_error", reply.body().path("error").path("type").asText());
    }
    Reply head = call("HEAD", "/v1/caches", "");
    assertEquals(405, head.status());
    assertTrue(head.body().isNull());
    Reply next = complete("{'prompt': 'a', 'max_tokens': 2, 'cache': '" + id + "'}");
    assertEquals(2, next.text().length());
  }

  /** A client that goes away leaves the conversation as it was. */
  @Test
  void cancelledStream() throws Exception {
    start("gear-4", 3000, 100, 0);
    String id = complete("{'prompt': 'It begins', 'max_tokens': 4, 'keep': true}").body().path("cache").asText();
    String fork = call("POST", "/v1/caches/" + id + "/fork", "").body().path("id").asText();
    byte[] body =
        ("{\"prompt\": \" and goes\", \"max_tokens\": 3000, \"stream\": true, \"cache\": \"" + id + "\"}").getBytes(StandardCharsets.US_ASCII);
    try (Socket socket = new Socket(InetAddress.getLoopbackAddress(), server.address().getPort())) {
      socket.getOutputStream().write(("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " + body.length + "\r\n\r\n").getBytes(StandardCharsets.US_ASCII));
      socket.getOutputStream().write(body);
      InputStream in = socket.getInputStream();
      assertTrue(in.readNBytes(64).length == 64);
    }
    List<String> texts = new ArrayList<>();
    for (String cache : List.of(id, fork)) {
      texts.add(complete("{'prompt': ' and ends', 'max_tokens': 6, 'cache': '" + cache + "'}").text());
    }
    assertEquals(texts.get(0), texts.get(1));
    JsonNode data = call("GET", "/v1/caches", "").body().path("data");
    assertEquals(data.path(0).path("tokens"), data.path(1).path("tokens"));
  }

  /** Many conversations at once answer as one after the other. */
  @Test
  void togetherAsAlone() throws Exception {
    start();
    final int count = 24;
    List<Callable<String>> scripts = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      String number = "Number " + i + ": ";
      scripts.add(() -> {
        Reply first = complete("{'prompt': '" + number + "', 'max_tokens': 4, 'keep': true}");
        String id = first.body().path("cache").asText();
        Reply second = complete("{'prompt': ', so ', 'max_tokens': 4, 'cache': '" + id + "'}");
        assertEquals(204, call("DELETE", "/v1/caches/" + id, "").status());
        return first.text() + second.text();
      });
    }
    List<String> alone = new ArrayList<>();
    for (Callable<String> script : scripts) {
      alone.add(script.call());
    }
    long before = service.memory();
    ExecutorService threads = Executors.newFixedThreadPool(count);
    List<String> together = new ArrayList<>();
    for (Future<String> f : threads.invokeAll(scripts)) {
      together.add(f.get());
    }
    threads.shutdown();
    assertEquals(alone, together);
    assertEquals(before, service.memory());
  }

  /** A request under way when the service is to end is answered; the listener is closed meanwhile. */
  @Test
  void drain() throws Exception {
    start("gear-4", 3000, 100, 0);
    HttpRequest r = request("POST", "/v1/completions", "{\"prompt\": \"The last words are \", \"max_tokens\": 2000, \"stream\": true}");
    HttpResponse<InputStream> response = CLIENT.send(r, HttpResponse.BodyHandlers.ofInputStream());
    response.body().readNBytes(64);
    Thread draining = new Thread(() -> assertTrue(server.drain(20)));
    draining.start();
    String rest = new String(response.body().readAllBytes(), StandardCharsets.UTF_8);
    assertTrue(rest.endsWith("data: [DONE]\n\n"), rest.substring(Math.max(0, rest.length() - 200)));
    draining.join();
    assertThrows(IOException.class, () -> call("GET", "/v1/caches", ""));
  }
}
