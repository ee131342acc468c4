package org.kvgear.example;

import java.net.InetSocketAddress;
import java.nio.file.Path;
import org.kvgear.example.service.Options;

/** The command line: {@code -name value}, with one or two dashes, or {@code -name=value}. */
final class Flags {
  static final String USAGE =
      """
      Usage of kvgear-service:
        -listen 127.0.0.1:8080    address to listen on; port 0 takes a free one
        -model FOLDER             folder with config.json and model.safetensors
        -recipe gear-4            recipe of conversations that name none
        -max-tokens 256           most tokens of one answer
        -max-caches 256           most conversations that are kept
        -memory-budget 0          most bytes of all caches; 0 = no limit
        -parallel CORES           most requests that compute at the same time
        -client-timeout 30        how many seconds a client may take to send a request
        -drain 30                 how many seconds SIGTERM waits for the requests under way
        -prompt TEXT              continue this text and exit, instead of listening
      """;

  private static final int MAX_BODY = 1 << 20;

  Path model = Path.of("../models/tiny");
  String prompt;
  int drain = 30;
  int clientTimeout = 30;
  private String listen = "127.0.0.1:8080";
  private String recipe = "gear-4";
  private int maxTokens = 256;
  private int maxCaches = 256;
  private long memoryBudget;
  private int parallel = Runtime.getRuntime().availableProcessors();

  /** Reads the arguments; what is wrong with them is an IllegalArgumentException with a sentence. */
  Flags(String... arguments) {
    for (int i = 0; i < arguments.length; i++) {
      String[] parts = arguments[i].split("=", 2);
      if (!parts[0].startsWith("-")) {
        throw new IllegalArgumentException("'" + arguments[i] + "' is no flag; see -help");
      }
      String name = parts[0].replaceFirst("^--?", "");
      if (parts.length == 1 && i + 1 == arguments.length) {
        throw new IllegalArgumentException("-" + name + " is no flag, or needs a value; see -help");
      }
      String value = parts.length == 2 ? parts[1] : arguments[++i];
      switch (name) {
        case "listen" -> listen = value;
        case "model" -> model = Path.of(value);
        case "recipe" -> recipe = value;
        case "prompt" -> prompt = value;
        case "max-tokens" -> maxTokens = (int) number(name, value, 1, 1 << 20);
        case "max-caches" -> maxCaches = (int) number(name, value, 1, 1 << 20);
        case "memory-budget" -> memoryBudget = number(name, value, 0, Long.MAX_VALUE);
        case "parallel" -> parallel = (int) number(name, value, 1, 1024);
        case "client-timeout" -> clientTimeout = (int) number(name, value, 1, 1 << 20);
        case "drain" -> drain = (int) number(name, value.replaceFirst("s$", ""), 1, 1 << 20);
        default -> throw new IllegalArgumentException("there is no flag -" + name + "; see -help");
      }
    }
  }

  private static long number(String name, String value, long least, long most) {
    long number;
    try {
      number = Long.parseLong(value);
    } catch (NumberFormatException e) {
      number = -1;
    }
    if (number < least || number > most) {
      throw new IllegalArgumentException("-" + name + " is " + value + "; it may be " + least + " to " + most);
    }
    return number;
  }

  InetSocketAddress address() {
    int colon = listen.lastIndexOf(':');
    if (colon < 0) {
      throw new IllegalArgumentException("-listen is " + listen + "; it is to be HOST:PORT");
    }
    int port = (int) number("listen", listen.substring(colon + 1), 0, 65535);
    String host = listen.substring(0, colon).replaceAll("^\\[|\\]$", "");
    return host.isEmpty() ? new InetSocketAddress(port) : new InetSocketAddress(host, port);
  }

  Options options() {
    return new Options(recipe, maxTokens, MAX_BODY, maxCaches, memoryBudget, parallel);
  }

  String recipe() {
    return recipe;
  }

  int maxTokens() {
    return maxTokens;
  }
}
