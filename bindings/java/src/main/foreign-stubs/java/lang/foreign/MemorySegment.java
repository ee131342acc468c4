package java.lang.foreign;

/**
 * What {@code org.kvgear.Segments} uses of the interface of this name that Java has from 22 on, so that Java 17 can compile it.
 * It is not packaged.
 */
public interface MemorySegment {
  interface Scope {
    boolean isAlive();
  }

  long address();

  long byteSize();

  boolean isNative();

  boolean isReadOnly();

  boolean isAccessibleBy(Thread thread);

  Scope scope();
}
