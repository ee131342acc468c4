/** Compressed key/value caches of language models, and attention on the compressed form. */
module org.kvgear {
  exports org.kvgear;
}
