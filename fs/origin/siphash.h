/*
 * siphash.h - SipHash-2-4: a keyed 64-bit hash that who lacks the key cannot predict.
 *
 * It authenticates handles and spreads inodes over tables. OpenSSL's, with one context kept by each
 * thread. Reference: Aumasson and Bernstein, "SipHash: a fast short-input PRF". Any thread.
 */
#ifndef FS_ORIGIN_SIPHASH_H
#define FS_ORIGIN_SIPHASH_H

#include "lease/base/types.h"

#define SIPHASH_KEY_BYTES 16

uint64_t siphash(const uint8_t key[SIPHASH_KEY_BYTES], const void *data, size_t length);

#endif
