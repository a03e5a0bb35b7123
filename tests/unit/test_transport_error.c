#include "unit.h"

#include <errno.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>

#include "transport/error.h"

START_TEST(every_curl_code_has_an_errno)
{
	ck_assert_int_eq(transport_error_of_curl(CURLE_OK, 0), 0);
	for (int code = 1; code < CURL_LAST; code++)
		ck_assert_int_lt(transport_error_of_curl((CURLcode)code, 0), 0);
	/* One that no library has yet. */
	ck_assert_int_eq(transport_error_of_curl((CURLcode)9999, 0), -EPROTO);
}
END_TEST

START_TEST(a_failed_connect_says_why)
{
	ck_assert_int_eq(transport_error_of_curl(CURLE_COULDNT_CONNECT, 0), -ECONNREFUSED);
	ck_assert_int_eq(transport_error_of_curl(CURLE_COULDNT_CONNECT, ECONNREFUSED),
			 -ECONNREFUSED);
	ck_assert_int_eq(transport_error_of_curl(CURLE_COULDNT_CONNECT, ENETUNREACH), -ENETUNREACH);
	ck_assert_int_eq(transport_error_of_curl(CURLE_COULDNT_CONNECT, EHOSTUNREACH),
			 -EHOSTUNREACH);
	/* An old errno of the system does not make another error of it. */
	ck_assert_int_eq(transport_error_of_curl(CURLE_OPERATION_TIMEDOUT, ENETUNREACH),
			 -ETIMEDOUT);
}
END_TEST

START_TEST(certificate_errors_are_one_errno)
{
	ck_assert_int_eq(transport_error_of_curl(CURLE_PEER_FAILED_VERIFICATION, 0), -EKEYREJECTED);
	ck_assert_int_eq(transport_error_of_curl(CURLE_SSL_CERTPROBLEM, 0), -EKEYREJECTED);
}
END_TEST

START_TEST(every_nghttp2_error_has_an_errno)
{
	ck_assert_int_eq(transport_error_of_nghttp2(0), 0);
	for (int code = -1000; code < 0; code++)
		ck_assert_int_lt(transport_error_of_nghttp2(code), 0);
	ck_assert_int_eq(transport_error_of_nghttp2(NGHTTP2_ERR_NOMEM), -ENOMEM);
}
END_TEST

START_TEST(a_text_is_one_line_that_names_the_origin)
{
	char text[600];

	for (int code = 1; code < CURL_LAST; code++) {
		int error = transport_error_of_curl((CURLcode)code, 0);

		transport_error_text(error, "https://x:7443", "detail", text, sizeof(text));
		ck_assert_ptr_nonnull(strstr(text, "https://x:7443"));
		ck_assert_ptr_null(strchr(text, '\n'));
	}
	transport_error_text(-ECONNREFUSED, "https://x:7443", "", text, sizeof(text));
	ck_assert_str_eq(text, "cannot reach origin https://x:7443: connection refused; is "
			       "`leasehold origin` running there?");
}
END_TEST

static TCase *error_case(void)
{
	TCase *tcase = tcase_create("transport_error");

	tcase_add_test(tcase, every_curl_code_has_an_errno);
	tcase_add_test(tcase, a_failed_connect_says_why);
	tcase_add_test(tcase, certificate_errors_are_one_errno);
	tcase_add_test(tcase, every_nghttp2_error_has_an_errno);
	tcase_add_test(tcase, a_text_is_one_line_that_names_the_origin);
	return tcase;
}

UNIT_MAIN("transport_error", error_case)
