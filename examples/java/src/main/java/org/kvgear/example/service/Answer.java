package org.kvgear.example.service;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.sun.net.httpserver.HttpExchange;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;

/** Sends the bytes of a completion, at once or as events. Bytes that are no UTF-8 become U+FFFD, as JSON asks. */
final class Answer {
  static final ObjectMapper JSON = new ObjectMapper();

  private final HttpExchange exchange;
  private final ObjectNode body;
  private final boolean stream;
  private final ByteArrayOutputStream unsent = new ByteArrayOutputStream();
  private OutputStream events; // once they have begun

  /**
   * An answer.
   *
   * @param exchange where it goes
   * @param body all of it but the choices
   * @param stream whether it comes in events
   */
  Answer(HttpExchange exchange, ObjectNode body, boolean stream) {
    this.exchange = exchange;
    this.body = body;
    this.stream = stream;
  }

  void put(byte token) throws IOException {
    unsent.write(token);
    if (stream && Utf8.isWhole(unsent.toByteArray())) {
      event(null);
    }
  }

  /** Ends the answer, which needs a usage only here. */
  void finish(JsonNode usage) throws IOException {
    body.set("usage", usage);
    if (stream) {
      event("length");
      events.write("data: [DONE]\n\n".getBytes(StandardCharsets.US_ASCII));
    } else {
      choose("length");
      reply(exchange, 200, body);
    }
  }

  /** Whether part of the answer is under way, so that no status can be sent any more. */
  boolean begun() {
    return events != null;
  }

  void send(JsonNode x) throws IOException {
    if (events == null) {
      exchange.getResponseHeaders().set("Content-Type", "text/event-stream");
      exchange.getResponseHeaders().set("Cache-Control", "no-store");
      exchange.sendResponseHeaders(200, 0);
      events = exchange.getResponseBody();
    }
    events.write(("data: " + JSON.writeValueAsString(x) + "\n\n").getBytes(StandardCharsets.UTF_8));
    events.flush();
  }

  private void event(String reason) throws IOException {
    choose(reason);
    send(body);
  }

  private void choose(String reason) {
    body.putArray("choices").addObject().put("index", 0).put("text", Utf8.text(unsent.toByteArray())).put("finish_reason", reason);
    unsent.reset();
  }

  /** Sends a whole JSON answer. */
  static void reply(HttpExchange exchange, int status, JsonNode x) throws IOException {
    byte[] bytes;
    try {
      bytes = (JSON.writeValueAsString(x) + "\n").getBytes(StandardCharsets.UTF_8);
    } catch (JsonProcessingException e) {
      throw new AssertionError(e); // a tree can always be written
    }
    exchange.getResponseHeaders().set("Content-Type", "application/json");
    if (exchange.getRequestMethod().equals("HEAD")) { // whose answer has no body
      exchange.sendResponseHeaders(status, -1);
      return;
    }
    exchange.sendResponseHeaders(status, bytes.length);
    exchange.getResponseBody().write(bytes);
  }
}
