"""The page's own words in the languages that the bot speaks."""

LANGUAGES = {"en": "English", "es": "Español", "pt": "Português"}

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "note": "Local rehearsal: not Telegram, no internet",
        "log": "Messages",
        "placeholder": "Message",
        "send": "Send",
        "commands": "Commands",
        "start": "Start",
        "empty": "Nothing here yet. Press Start, or type /create and your idea.",
        "language": "Language",
        "person": "You are",
        "typing": "is typing …",
        "uploading": "is sending a video …",
        "recording": "is making a video …",
        "edited": "edited",
        "you": "You",
        "offline": "Connection lost. Connecting again …",
        "failed": "That was not sent. Please try again.",
        "close": "OK",
        "download": "Download",
    },
    "es": {
        "note": "Ensayo local: no es Telegram, sin internet",
        "log": "Mensajes",
        "placeholder": "Mensaje",
        "send": "Enviar",
        "commands": "Comandos",
        "start": "Empezar",
        "empty": "Aún no hay nada. Pulsa Empezar o escribe /create y tu idea.",
        "language": "Idioma",
        "person": "Tú eres",
        "typing": "está escribiendo …",
        "uploading": "está enviando un video …",
        "recording": "está creando un video …",
        "edited": "editado",
        "you": "Tú",
        "offline": "Sin conexión. Conectando de nuevo …",
        "failed": "No se envió. Inténtalo de nuevo.",
        "close": "Aceptar",
        "download": "Descargar",
    },
    "pt": {
        "note": "Ensaio local: não é o Telegram, sem internet",
        "log": "Mensagens",
        "placeholder": "Mensagem",
        "send": "Enviar",
        "commands": "Comandos",
        "start": "Começar",
        "empty": "Ainda não há nada. Toque em Começar ou escreva /create e a sua ideia.",
        "language": "Idioma",
        "person": "Você é",
        "typing": "está digitando …",
        "uploading": "está enviando um vídeo …",
        "recording": "está criando um vídeo …",
        "edited": "editada",
        "you": "Você",
        "offline": "Sem conexão. Conectando de novo …",
        "failed": "Não foi enviada. Tente de novo.",
        "close": "OK",
        "download": "Baixar",
    },
}


def spoken(language_code: str) -> str:
    """The page's language for a Telegram language code (`pt-br` is `pt`); English for all others."""
    short = language_code.lower().replace("_", "-").partition("-")[0]
    return short if short in LANGUAGES else "en"
