package org.kvgear.example;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpHandler;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadFactory;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;

/** The JDK's HTTP server, with bounds, and an end that lets the requests under way finish. */
public final class Server {
  private static final int THREADS = 256; // one for each request that computes or waits; others wait before they are read
  private static final int ANSWER_SECONDS = 3600; // that one may take, a client that does not take it included

  static {
    // Without nodelay the second half of an answer may wait for 40 ms.
    System.setProperty("sun.net.httpserver.nodelay", "true");
    System.setProperty("sun.net.httpserver.maxRspTime", String.valueOf(ANSWER_SECONDS));
    System.setProperty("sun.net.httpserver.maxIdleConnections", "1024");
    System.setProperty("jdk.httpserver.maxConnections", "1024"); // where the JDK knows it
  }

  private final HttpServer server;
  private final ThreadPoolExecutor threads;
  private final AtomicInteger underWay = new AtomicInteger(); // requests
  private final AtomicBoolean stopped = new AtomicBoolean();

  /**
   * How long clients may take to send a request, or to say anything: those that take longer are cut off. Must be set before the first
   * server is made, for the JDK reads it when its class is loaded.
   *
   * @param seconds how long
   */
  public static void clientTimeout(int seconds) {
    System.setProperty("sun.net.httpserver.maxReqTime", String.valueOf(seconds));
    System.setProperty("sun.net.httpserver.idleInterval", String.valueOf(seconds));
  }

  /**
   * Listens, and answers from now on.
   *
   * @param address where; port 0 takes a free one
   * @param handler what answers
   * @throws IOException when that is not possible
   */
  public Server(InetSocketAddress address, HttpHandler handler) throws IOException {
    ThreadFactory daemons =
        work -> {
          Thread thread = Executors.defaultThreadFactory().newThread(work);
          thread.setDaemon(true);
          return thread;
        };
    threads = new ThreadPoolExecutor(THREADS, THREADS, 60, TimeUnit.SECONDS, new LinkedBlockingQueue<>(), daemons);
    threads.allowCoreThreadTimeOut(true);
    server = HttpServer.create(address, 0);
    server.setExecutor(threads);
    server.createContext("/", exchange -> handle(exchange, handler));
    server.start();
  }

  private void handle(HttpExchange exchange, HttpHandler handler) throws IOException {
    underWay.incrementAndGet();
    try {
      handler.handle(exchange);
    } finally {
      underWay.decrementAndGet();
    }
  }

  /**
   * Where it listens.
   *
   * @return the address, with the port that was taken
   */
  public InetSocketAddress address() {
    return server.getAddress();
  }

  /**
   * Takes no further connections and waits until the requests under way are answered.
   *
   * @param seconds how long to wait
   * @return whether all were
   */
  public boolean drain(int seconds) {
    if (!stopped.compareAndSet(false, true)) {
      return true;
    }
    // stop() closes the listener at once, but some versions of Java sit out the whole time even where no request is under way.
    Thread stop = new Thread(() -> server.stop(seconds));
    stop.setDaemon(true);
    stop.start();
    long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
    int quiet = 0; // looks at which nothing was under way; one is not enough, a request may be between the queue and the counter
    try {
      while (quiet < 3 && System.nanoTime() < end) {
        quiet = underWay.get() == 0 && threads.getQueue().isEmpty() ? quiet + 1 : 0;
        Thread.sleep(5);
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
    threads.shutdown();
    return quiet >= 3;
  }
}
