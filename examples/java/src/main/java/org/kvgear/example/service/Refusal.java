package org.kvgear.example.service;

/** A request that is not answered, with the HTTP status that says whose fault it is and a sentence that says what to change. */
final class Refusal extends RuntimeException {
  private static final long serialVersionUID = 1;

  private final int status;

  Refusal(int status, String sentence) {
    super(sentence);
    this.status = status;
  }

  int status() {
    return status;
  }
}
