package org.kvgear;

/**
 * A struct for C.
 *
 * @param struct its bytes
 * @param memory what it points to: must stay reachable until the call is over
 */
record Packed(byte[] struct, Memory memory) {}
