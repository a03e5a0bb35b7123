#include "transport/tls_token.h"

#include <openssl/crypto.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static char *write_base64url(char *text, const uint8_t *data, size_t length)
{
	unsigned bits = 0;
	uint32_t value = 0;

	for (size_t i = 0; i < length; i++) {
		value = value << 8 | data[i];
		for (bits += 8; bits >= 6; bits -= 6)
			*text++ = alphabet[value >> (bits - 6) & 63];
	}
	if (bits > 0)
		*text++ = alphabet[value << (6 - bits) & 63];
	return text;
}

/* Reads exactly `length` bytes; the text behind them, or NULL. Bits beyond the last byte are 0. */
static const char *read_base64url(const char *text, uint8_t *ret_data, size_t length)
{
	unsigned bits = 0;
	uint32_t value = 0;

	for (size_t i = 0; i < length;) {
		const char *found = *text ? strchr(alphabet, *text) : NULL;

		if (!found)
			return NULL;
		value = (value << 6 | (uint32_t)(found - alphabet)) & 0xffff;
		bits += 6;
		text++;
		if (bits >= 8) {
			bits -= 8;
			ret_data[i++] = (uint8_t)(value >> bits);
		}
	}
	return (value & ((1u << bits) - 1)) == 0 ? text : NULL;
}

void tls_token_write(const struct tls_token *token, char ret_text[TLS_TOKEN_BYTES])
{
	char *at = write_base64url(ret_text, token->secret, sizeof(token->secret));

	*at++ = '.';
	at = write_base64url(at, token->fingerprint, sizeof(token->fingerprint));
	*at = 0;
}

bool tls_token_read(const char *text, struct tls_token *ret_token)
{
	struct tls_token token;

	text += strspn(text, " \t\r\n");
	text = read_base64url(text, token.secret, sizeof(token.secret));
	if (!text || *text++ != '.')
		return false;
	text = read_base64url(text, token.fingerprint, sizeof(token.fingerprint));
	if (!text || text[strspn(text, " \t\r\n")])
		return false;
	*ret_token = token;
	return true;
}

bool tls_token_equal(const struct tls_token *a, const struct tls_token *b)
{
	return CRYPTO_memcmp(a, b, sizeof(*a)) == 0;
}
