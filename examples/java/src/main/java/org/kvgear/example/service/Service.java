package org.kvgear.example.service;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpHandler;
import java.io.IOException;
import java.io.OutputStream;
import java.time.Instant;
import java.util.concurrent.ArrayBlockingQueue;
import org.kvgear.KvgException;
import org.kvgear.KvgPlan;
import org.kvgear.KvgRuntime;
import org.kvgear.RuntimeOptions;
import org.kvgear.Stats;
import org.kvgear.Status;
import org.kvgear.example.model.Model;
import org.kvgear.example.model.Session;
import org.kvgear.example.model.Workspace;

/**
 * Completions in the usual shape, over conversations whose compressed caches live on between requests. Any number of threads may
 * call it.
 */
public final class Service implements HttpHandler, AutoCloseable {
  private static final String CACHES = "/v1/caches/";

  private final Options options;
  private final Model model;
  private final KvgRuntime runtime;
  private final Conversations conversations;
  private final ArrayBlockingQueue<Workspace> workspaces; // who has one computes

  /**
   * A service.
   *
   * @param model what answers
   * @param options bounds
   */
  public Service(Model model, Options options) {
    this.model = model;
    this.options = options;
    KvgPlan.create(model.shape(), options.recipe()).close(); // a wrong one is to be known now
    conversations = new Conversations(options.maxCaches());
    workspaces = new ArrayBlockingQueue<>(options.parallel());
    while (workspaces.offer(new Workspace(model))) {}
    runtime = KvgRuntime.create(RuntimeOptions.DEFAULT.withMemoryBudget(options.memoryBudget()));
  }

  /** Ends all conversations. Requests must have ended. */
  @Override
  public void close() {
    conversations.list().forEach(c -> conversations.remove(c.id));
    runtime.close();
  }

  /**
   * Bytes that all caches hold.
   *
   * @return the bytes
   */
  public long memory() {
    return runtime.memory();
  }

  /**
   * Writes the continuation of a prompt, without HTTP.
   *
   * @param out where its bytes go
   * @param recipe what is done to keys and values
   * @param prompt the bytes to continue
   * @param count how many to make
   * @throws IOException of out
   */
  public void continueText(OutputStream out, String recipe, byte[] prompt, int count) throws IOException {
    if (prompt.length + count > model.positions()) {
      throw new IllegalArgumentException("prompt and answer are longer than the " + model.positions() + " positions of the model");
    }
    try (Session session = newSession(recipe)) {
      Workspace w = takeWorkspace();
      try {
        session.generate(w, prompt, count, token -> out.write(token));
      } finally {
        workspaces.add(w);
      }
    }
  }

  private Workspace takeWorkspace() {
    try {
      return workspaces.take();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new Refusal(503, "the service is ending");
    }
  }

  /** A plan is only needed to make a cache, which keeps what it needs of it. */
  private Session newSession(String recipe) {
    KvgPlan plan;
    try {
      plan = KvgPlan.create(model.shape(), recipe);
    } catch (KvgException e) {
      if (e.status() == Status.INVALID || e.status() == Status.UNSUPPORTED) {
        throw new Refusal(400, e.getMessage());
      }
      throw e;
    }
    try (plan) {
      return new Session(model, runtime.newCache(plan));
    }
  }

  /** Sends a request to what answers it. */
  @Override
  public void handle(HttpExchange exchange) throws IOException {
    try (exchange) {
      exchange.getRequestBody(); // without a look at it the server would end the connection
      try {
        route(exchange);
      } catch (RuntimeException | OutOfMemoryError e) {
        if (exchange.getResponseCode() != -1) {
          throw e; // the answer has begun
        }
        Answer.reply(exchange, status(e), errorBody(e));
      }
    }
  }

  private void route(HttpExchange exchange) throws IOException {
    String path = exchange.getRequestURI().getPath();
    String[] parts = path.startsWith(CACHES) ? path.substring(CACHES.length()).split("/", 2) : new String[] {""};
    String id = parts[0];
    String action = parts.length == 1 ? "" : parts[1];
    if (path.equals("/v1/completions")) {
      only(exchange, "POST");
      complete(exchange);
    } else if (path.equals("/v1/caches")) {
      only(exchange, "GET");
      list(exchange);
    } else if (!id.isEmpty() && action.isEmpty()) {
      only(exchange, "DELETE");
      conversations.remove(id);
      exchange.sendResponseHeaders(204, -1);
    } else if (!id.isEmpty() && action.equals("fork")) {
      only(exchange, "POST");
      fork(exchange, id);
    } else if (path.equals("/healthz")) {
      Answer.reply(exchange, 200, Answer.JSON.createObjectNode().put("status", "ok"));
    } else {
      throw new Refusal(404, "there is nothing at " + path + "; see the README");
    }
  }

  private static void only(HttpExchange exchange, String method) {
    if (!exchange.getRequestMethod().equals(method)) {
      throw new Refusal(405, exchange.getRequestURI().getPath() + " takes " + method + " only");
    }
  }

  private static int status(Throwable e) {
    if (e instanceof Refusal refusal) {
      return refusal.status();
    }
    boolean full = e instanceof KvgException k && (k.status() == Status.LIMIT || k.status() == Status.NOMEM);
    return full || e instanceof OutOfMemoryError ? 429 : 500;
  }

  /** An error in the shape that clients of completion services know. */
  private static ObjectNode errorBody(Throwable e) {
    ObjectNode body = Answer.JSON.createObjectNode();
    String message = e instanceof OutOfMemoryError ? "there is not enough memory for this; send less, or later" : String.valueOf(e.getMessage());
    body.putObject("error").put("message", message).put("type", status(e) < 500 ? "invalid_request_error" : "server_error");
    return body;
  }

  private byte[] read(HttpExchange exchange) throws IOException {
    byte[] body = exchange.getRequestBody().readNBytes(options.maxBody() + 1);
    if (body.length > options.maxBody()) {
      exchange.getResponseHeaders().set("Connection", "close");
      throw new Refusal(413, "the request is longer than " + options.maxBody() + " bytes");
    }
    return body;
  }

  private void complete(HttpExchange exchange) throws IOException {
    CompletionRequest q = CompletionRequest.parse(read(exchange), options.maxTokens());
    if (!q.cache().isEmpty()) {
      Conversation c = conversations.take(q.cache());
      try {
        complete(exchange, q, c, true);
      } finally {
        c.turn.unlock();
      }
      return;
    }
    if (q.keep()) {
      conversations.room(); // before the work, though only what comes behind it decides
    }
    String recipe = q.recipe().isEmpty() ? options.recipe() : q.recipe();
    Conversation c = new Conversation(recipe, newSession(recipe));
    c.turn.lock();
    try {
      complete(exchange, q, c, false);
    } finally {
      c.turn.unlock();
    }
  }

  /**
   * Continues a conversation. The work is done on a fork, which takes the conversation's place when all went well: a request that
   * fails or whose client goes away leaves no trace. A new conversation that is not kept ends before its last words are sent, so that
   * who has them finds no memory of it any more.
   */
  private void complete(HttpExchange exchange, CompletionRequest q, Conversation c, boolean known) throws IOException {
    Session work = null;
    boolean placed = false;
    Answer answer = null;
    try {
      work = c.session().fork();
      long total = (long) work.tokens() + q.prompt().length + q.maxTokens();
      if (total > model.positions()) {
        throw new Refusal(
            400,
            "conversation, prompt and max_tokens make " + total + " tokens; the model has " + model.positions() + " positions");
      }
      Workspace w = takeWorkspace();
      try {
        answer = new Answer(exchange, head(q, c, known), q.stream());
        work.generate(w, q.prompt(), q.maxTokens(), answer::put);
      } finally {
        workspaces.add(w);
      }
      if (known || q.keep()) {
        if (!known) {
          conversations.add(c);
        }
        c.replace(work);
        placed = true;
      }
    } catch (RuntimeException | OutOfMemoryError e) {
      if (answer == null || !answer.begun()) {
        throw e;
      }
      answer.send(errorBody(e));
      return;
    } finally {
      if (!placed && work != null) {
        work.close();
      }
      if (!placed && !known) {
        c.end();
      }
    }
    try {
      ObjectNode usage = Answer.JSON.createObjectNode();
      usage.put("prompt_tokens", q.prompt().length).put("completion_tokens", q.maxTokens());
      answer.finish(usage.put("total_tokens", q.prompt().length + q.maxTokens()));
    } catch (IOException e) {
      // the client is gone, nobody is left to tell
    }
  }

  /** All of an answer but what it says. */
  private ObjectNode head(CompletionRequest q, Conversation c, boolean known) {
    ObjectNode head = Answer.JSON.createObjectNode();
    head.put("id", "cmpl-" + Conversation.newId()).put("object", "text_completion").put("created", Instant.now().getEpochSecond());
    head.put("model", model.name()).put("recipe", c.recipe);
    if (known || q.keep()) {
      head.put("cache", c.id);
    }
    return head;
  }

  private void fork(HttpExchange exchange, String id) throws IOException {
    Conversation c = conversations.take(id);
    Conversation fork;
    try {
      conversations.room();
      fork = new Conversation(c.recipe, c.session().fork());
    } finally {
      c.turn.unlock();
    }
    try {
      conversations.add(fork);
    } catch (Refusal e) {
      fork.session().close();
      throw e;
    }
    Answer.reply(exchange, 201, Answer.JSON.createObjectNode().put("id", fork.id));
  }

  private void list(HttpExchange exchange) throws IOException {
    ObjectNode body = Answer.JSON.createObjectNode().put("object", "list");
    ArrayNode data = body.putArray("data");
    for (Conversation c : conversations.list()) {
      Stats s;
      try {
        s = c.stats();
      } catch (KvgException e) {
        if (e.status() == Status.STATE) {
          continue; // deleted in between
        }
        throw e;
      }
      ObjectNode item = data.addObject().put("id", c.id).put("recipe", c.recipe);
      item.put("tokens", s.tokens() / model.shape().layers()).put("bits_per_element", s.bitsPerElement());
      item.putObject("bytes")
          .put("total", s.bytesTotal())
          .put("codes", s.bytesCodes())
          .put("scales", s.bytesScales())
          .put("low_rank", s.bytesLowRank())
          .put("sparse", s.bytesSparse())
          .put("window", s.bytesWindowAllocated())
          .put("bookkeeping", s.bytesBookkeeping())
          .put("shared", s.bytesShared())
          .put("fp16", s.bytesFp16());
    }
    Answer.reply(exchange, 200, body.put("bytes", runtime.memory()));
  }
}
