"""Messages: near names, and no credentials."""

from hypothesis import given
from hypothesis import strategies as st

from claw.errors import InputError, unknown, without_credentials

WORD = st.text("abcXYZ019-._~%!$&'()*+,;=", min_size=1, max_size=12)
PASSWORD = st.text("abcXYZ019-._~%!$&()*+,;=:@/?#", min_size=1, max_size=12).filter(lambda word: not word[0].isdigit())


@given(st.sampled_from(["http", "https", "ftp", "git+https", "socks5h"]), WORD, PASSWORD, st.sampled_from(["", ":8080"]))
def test_an_address_loses_its_user_and_password(scheme, user, password, port):
    address = f"{scheme}://{user}:{password}@host.org{port}/simple/x"
    shown = str(InputError(f"Could not fetch x from {address}: {address} timed out."))
    plain = f"{scheme}://host.org{port}/simple/x"
    assert shown == f"Could not fetch x from {plain}: {plain} timed out."


@given(st.sampled_from(["http://host.org:80/a@b", "https://host/x?mail=a@b.c", "a://b c@d", "me@host.org", "/a/b@c", "x: y@z"]))
def test_what_holds_no_credentials_stays(text):
    assert without_credentials(text) == text


def test_what_is_no_text_stays_in_an_error():
    assert InputError("a", 5).args == ("a", 5)
    assert "did you mean 'magnitude'?" in str(unknown("method", "magnitud", ["magnitude"]))
