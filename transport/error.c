#include "transport/error.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>

struct row {
	int code;
	int error;
};

/* What is not here cannot happen with the options that we set, and is EPROTO. */
static const struct row curl_rows[] = {
	{ CURLE_OK, 0 },
	{ CURLE_UNSUPPORTED_PROTOCOL, EINVAL },
	{ CURLE_FAILED_INIT, ENOMEM },
	{ CURLE_URL_MALFORMAT, EINVAL },
	{ CURLE_COULDNT_RESOLVE_HOST, EHOSTUNREACH },
	{ CURLE_COULDNT_CONNECT, ECONNREFUSED },
	{ CURLE_REMOTE_ACCESS_DENIED, EACCES },
	{ CURLE_WRITE_ERROR, EMSGSIZE }, /* our receiver refused: larger than a message may be */
	{ CURLE_OUT_OF_MEMORY, ENOMEM },
	{ CURLE_OPERATION_TIMEDOUT, ETIMEDOUT },
	{ CURLE_SSL_CONNECT_ERROR, EKEYREJECTED },
	{ CURLE_ABORTED_BY_CALLBACK, ECANCELED },
	{ CURLE_GOT_NOTHING, ECONNRESET },
	{ CURLE_SEND_ERROR, ECONNRESET },
	{ CURLE_RECV_ERROR, ECONNRESET },
	{ CURLE_PARTIAL_FILE, ECONNRESET },
	{ CURLE_SSL_CERTPROBLEM, EKEYREJECTED },
	{ CURLE_SSL_CIPHER, EKEYREJECTED },
	{ CURLE_PEER_FAILED_VERIFICATION, EKEYREJECTED },
	{ CURLE_SSL_SHUTDOWN_FAILED, ECONNRESET },
	{ CURLE_SSL_CACERT_BADFILE, EKEYREJECTED },
	{ CURLE_SSL_CRL_BADFILE, EKEYREJECTED },
	{ CURLE_SSL_ISSUER_ERROR, EKEYREJECTED },
	{ CURLE_SSL_INVALIDCERTSTATUS, EKEYREJECTED },
	{ CURLE_SSL_PINNEDPUBKEYNOTMATCH, EKEYREJECTED },
	{ CURLE_SSL_CLIENTCERT, EKEYREJECTED },
	{ CURLE_SSL_ENGINE_INITFAILED, EKEYREJECTED },
	{ CURLE_SEND_FAIL_REWIND, ECONNRESET },
	{ CURLE_NO_CONNECTION_AVAILABLE, EAGAIN },
	{ CURLE_AGAIN, EAGAIN },
	{ CURLE_HTTP2, ECONNRESET },	    /* GOAWAY, or a connection that broke under us */
	{ CURLE_HTTP2_STREAM, ECONNRESET }, /* the origin reset the stream */
};

static const struct row nghttp2_rows[] = {
	{ 0, 0 },
	{ NGHTTP2_ERR_INVALID_ARGUMENT, EINVAL },
	{ NGHTTP2_ERR_WOULDBLOCK, EAGAIN },
	{ NGHTTP2_ERR_EOF, ECONNRESET },
	{ NGHTTP2_ERR_DEFERRED, EAGAIN },
	{ NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE, ECONNRESET },
	{ NGHTTP2_ERR_STREAM_CLOSED, EPIPE },
	{ NGHTTP2_ERR_STREAM_CLOSING, EPIPE },
	{ NGHTTP2_ERR_STREAM_SHUT_WR, EPIPE },
	{ NGHTTP2_ERR_START_STREAM_NOT_ALLOWED, ECONNRESET },
	{ NGHTTP2_ERR_REFUSED_STREAM, EAGAIN },
	{ NGHTTP2_ERR_PUSH_DISABLED, EINVAL },
	{ NGHTTP2_ERR_DATA_EXIST, EINVAL },
	{ NGHTTP2_ERR_SESSION_CLOSING, ECONNRESET },
	{ NGHTTP2_ERR_NOMEM, ENOMEM },
	{ NGHTTP2_ERR_CALLBACK_FAILURE, ECANCELED },
	{ NGHTTP2_ERR_CANCEL, ECANCELED },
	{ NGHTTP2_ERR_FRAME_SIZE_ERROR, EMSGSIZE },
	{ NGHTTP2_ERR_INSUFF_BUFSIZE, EMSGSIZE },
};

#define COUNT_OF(rows) (sizeof(rows) / sizeof((rows)[0]))

static int find(const struct row *rows, size_t count, int code)
{
	for (size_t i = 0; i < count; i++)
		if (rows[i].code == code)
			return -rows[i].error;
	return -EPROTO;
}

int transport_error_of_curl(CURLcode code, long os_error)
{
	int error = find(curl_rows, COUNT_OF(curl_rows), (int)code);

	if (code != CURLE_COULDNT_CONNECT)
		return error;
	switch (os_error) {
	case ENETUNREACH:
	case EHOSTUNREACH:
	case EADDRNOTAVAIL:
	case ETIMEDOUT:
	case EACCES:
	case EPERM:
		return -(int)os_error;
	default:
		return error;
	}
}

int transport_error_of_nghttp2(int code)
{
	return find(nghttp2_rows, COUNT_OF(nghttp2_rows), code);
}

static const char *advice(int error)
{
	switch (error) {
	case -ECONNREFUSED:
		return "connection refused; is `leasehold origin` running there?";
	case -ETIMEDOUT:
		return "no answer in time; is the machine up, and does a firewall let the port "
		       "through?";
	case -ENETUNREACH:
	case -EHOSTUNREACH:
		return "no route or no such host; check the name and the network";
	case -EKEYREJECTED:
		return "the certificates do not match; has the origin been made anew, or this host "
		       "not joined? mount with --join and the token that the origin prints";
	case -ECONNRESET:
		return "the connection broke; the origin stopped or the network failed, try again";
	case -EAGAIN:
		return "too busy; try again later";
	case -EMSGSIZE:
		return "the answer is larger than a message may be; do the versions match?";
	case -ECANCELED:
		return "cancelled";
	case -ENOMEM:
		return "out of memory on this host";
	case -EACCES:
	case -EPERM:
		return "not permitted; check this host's firewall";
	default:
		return "not a Leasehold origin, or of another version; check the address and the "
		       "port";
	}
}

void transport_error_text(int error, const char *url, const char *detail, char *text, size_t size)
{
	bool more = detail && detail[0];

	if (error == 0)
		(void)snprintf(text, size, "done");
	else if (error == -ECANCELED)
		(void)snprintf(text, size, "request to origin %s: cancelled", url);
	else
		(void)snprintf(text, size, "cannot reach origin %s: %s%s%s%s", url, advice(error),
			       more ? " (" : "", more ? detail : "", more ? ")" : "");
}
