package org.kvgear.example.service;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.function.Predicate;

/**
 * The body of POST /v1/completions.
 *
 * @param prompt what is to be continued
 * @param maxTokens how many bytes to make
 * @param stream whether the answer comes in events
 * @param recipe of a new conversation; "" = the default
 * @param cache the conversation to continue; "" = a new one
 * @param keep whether a new conversation is kept
 */
record CompletionRequest(byte[] prompt, int maxTokens, boolean stream, String recipe, String cache, boolean keep) {
  private static final ObjectMapper JSON = new ObjectMapper().enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS);
  private static final int DEFAULT_TOKENS = 16;

  static CompletionRequest parse(byte[] body, int mostTokens) {
    JsonNode x;
    try {
      x = JSON.readTree(Utf8.text(body));
    } catch (JsonProcessingException e) {
      throw new Refusal(400, "the request is no JSON of a completion: " + e.getOriginalMessage());
    }
    if (!x.isObject()) {
      throw new Refusal(400, "the request is no JSON of a completion, which is an object");
    }
    JsonNode tokens = field(x, "max_tokens", "a whole number", JsonNode::isIntegralNumber);
    int maxTokens = tokens == null ? Math.min(DEFAULT_TOKENS, mostTokens) : tokens.canConvertToInt() ? tokens.intValue() : 0;
    JsonNode prompt = field(x, "prompt", "a text", JsonNode::isTextual);
    JsonNode temperature = field(x, "temperature", "a number", JsonNode::isNumber);
    field(x, "model", "a text", JsonNode::isTextual);
    String recipe = text(x, "recipe");
    String cache = text(x, "cache");
    if (prompt == null) {
      throw new Refusal(400, "the request has no prompt");
    }
    if (prompt.textValue().isEmpty()) {
      throw new Refusal(400, "the prompt is empty");
    }
    if (temperature != null && temperature.doubleValue() != 0) {
      throw new Refusal(
          400, "temperature is " + temperature + "; this service takes the likeliest token, which is temperature 0");
    }
    if (!cache.isEmpty() && !recipe.isEmpty()) {
      throw new Refusal(400, "a conversation keeps its recipe; give cache or recipe, not both");
    }
    if (maxTokens < 1 || maxTokens > mostTokens) {
      throw new Refusal(400, "max_tokens is " + tokens + "; it may be 1 to " + mostTokens);
    }
    return new CompletionRequest(
        Utf8.bytes(prompt.textValue()), maxTokens, flag(x, "stream"), recipe, cache, flag(x, "keep"));
  }

  /** A field of one type; null when it is left out. */
  private static JsonNode field(JsonNode x, String name, String what, Predicate<JsonNode> type) {
    JsonNode value = x.get(name);
    if (value == null || value.isNull()) {
      return null;
    }
    if (!type.test(value)) {
      throw new Refusal(400, "the request is no JSON of a completion: " + name + " is to be " + what);
    }
    return value;
  }

  private static String text(JsonNode x, String name) {
    JsonNode value = field(x, name, "a text", JsonNode::isTextual);
    return value == null ? "" : value.textValue();
  }

  private static boolean flag(JsonNode x, String name) {
    JsonNode value = field(x, name, "true or false", JsonNode::isBoolean);
    return value != null && value.booleanValue();
  }
}
