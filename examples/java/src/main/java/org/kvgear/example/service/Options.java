package org.kvgear.example.service;

/**
 * What a client may use.
 *
 * @param recipe of conversations that name none
 * @param maxTokens most tokens of one answer
 * @param maxBody most bytes of a request
 * @param maxCaches most conversations that are kept
 * @param memoryBudget most bytes of all caches; 0 = no limit
 * @param parallel most requests that compute at the same time
 */
public record Options(String recipe, int maxTokens, int maxBody, int maxCaches, long memoryBudget, int parallel) {}
