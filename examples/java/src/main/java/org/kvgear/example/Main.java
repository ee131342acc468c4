package org.kvgear.example;

import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import org.kvgear.KvgException;
import org.kvgear.example.model.Model;
import org.kvgear.example.service.Service;

/** Answers completions over HTTP with a small model, and keeps the caches of its conversations compressed. */
public final class Main {
  /**
   * The program.
   *
   * @param arguments see {@link Flags#USAGE}
   */
  public static void main(String[] arguments) {
    if (List.of(arguments).stream().anyMatch(a -> a.matches("--?h(elp)?"))) {
      System.out.print(Flags.USAGE);
      return;
    }
    try {
      run(new Flags(arguments));
    } catch (IOException | KvgException | IllegalArgumentException e) {
      System.err.println("kvgear-service: " + (e.getMessage() == null ? e.toString() : e.getMessage()));
      System.exit(1);
    }
  }

  private static void run(Flags flags) throws IOException {
    Model model = new Model(flags.model);
    Service service = new Service(model, flags.options());
    if (flags.prompt != null) {
      try (service; PrintStream out = new PrintStream(System.out, true)) {
        service.continueText(out, flags.recipe(), flags.prompt.getBytes(StandardCharsets.UTF_8), flags.maxTokens());
      }
      return;
    }
    Server.clientTimeout(flags.clientTimeout);
    Server server = new Server(flags.address(), service);
    Runtime.getRuntime().addShutdownHook(new Thread(() -> end(server, service, flags.drain)));
    String host = server.address().getAddress().getHostAddress();
    System.out.println("listening on http://" + (host.contains(":") ? "[" + host + "]" : host) + ":" + server.address().getPort());
  }

  /** At SIGTERM and SIGINT. Java would exit with the number of the signal, though nothing is wrong. */
  private static void end(Server server, Service service, int seconds) {
    System.err.println("kvgear-service: draining");
    boolean all = server.drain(seconds);
    if (all) {
      service.close();
    } // else requests are still under way: their caches end with the process
    System.err.println("kvgear-service: " + (all ? "drained" : "gave up on requests that are still under way"));
    Runtime.getRuntime().halt(all ? 0 : 1);
  }

  private Main() {}
}
