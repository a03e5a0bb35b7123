#include "fs/origin/siphash.h"

#include <assert.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>

#include "lease/base/bytes.h"

static pthread_key_t context_key;
static pthread_once_t context_once = PTHREAD_ONCE_INIT;

static void context_free(void *context)
{
	EVP_MAC_CTX_free(context);
}

static void key_make(void)
{
	int ret = pthread_key_create(&context_key, context_free);

	assert(ret == 0);
	(void)ret;
}

/* One context a thread, kept: making one costs more than the hash. Aborts without memory: there is
   no answer without identities, and it is asked for once in a thread's life. */
static EVP_MAC_CTX *context_get(void)
{
	EVP_MAC_CTX *context;
	EVP_MAC *mac;

	pthread_once(&context_once, key_make);
	context = pthread_getspecific(context_key);
	if (context)
		return context;
	mac = EVP_MAC_fetch(NULL, "SIPHASH", NULL);
	context = mac ? EVP_MAC_CTX_new(mac) : NULL;
	EVP_MAC_free(mac);
	if (!context || pthread_setspecific(context_key, context) != 0)
		abort();
	return context;
}

uint64_t siphash(const uint8_t key[SIPHASH_KEY_BYTES], const void *data, size_t length)
{
	EVP_MAC_CTX *context = context_get();
	size_t size = sizeof(uint64_t), out = 0;
	const OSSL_PARAM parameters[] = {
		OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
		OSSL_PARAM_construct_end(),
	};
	uint8_t hash[sizeof(uint64_t)];
	struct reader r = reader_of(hash, sizeof(hash));
	int ok = EVP_MAC_init(context, key, SIPHASH_KEY_BYTES, parameters) &&
		 EVP_MAC_update(context, data, length) &&
		 EVP_MAC_final(context, hash, &out, sizeof(hash)) && out == sizeof(hash);

	assert(ok);
	(void)ok;
	return reader_u64(&r);
}
