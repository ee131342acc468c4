package org.kvgear;

/** Receives log lines of a runtime: see {@link KvgRuntime#setLog}. */
@FunctionalInterface
public interface LogSink {
  /**
   * Takes a line.
   *
   * @param level how severe it is; levels that this package does not know are {@link LogLevel#ERROR}
   * @param message the line, without a line break at its end
   */
  void log(LogLevel level, String message);
}
