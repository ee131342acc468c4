module example {
  requires org.kvgear;
}
